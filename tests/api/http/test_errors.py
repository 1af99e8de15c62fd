"""Exceptions as problem documents."""

from types import SimpleNamespace

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from ranksieve.api.http import errors
from ranksieve.api.http.app import MAX_BODY_BYTES
from ranksieve.search.errors import (
    ConflictError,
    InfrastructureError,
    InputError,
    NotFoundError,
    ScoringError,
    StoreError,
)

JSON = {"Content-Type": "application/json"}
SECRET = "/home/someone/secret.txt"
TOO_LARGE = f"larger than the {MAX_BODY_BYTES} bytes"


@pytest.fixture
def raising():
    """A function that lets a route raise an exception, and returns the answer."""
    app = FastAPI()
    app.state.application = SimpleNamespace(for_users=lambda text: text)
    errors.install(app)
    raised: list[Exception] = []

    @app.get("/raise")
    def route() -> None:
        raise raised[-1]

    with TestClient(app, raise_server_exceptions=False) as http:

        def answer(error: Exception):
            raised.append(error)
            return http.get("/raise")

        yield answer


@pytest.mark.parametrize(
    ("error", "status"), [(NotFoundError("no job 7"), 404), (ConflictError("job 7 has ended"), 409)]
)
def test_errors_of_the_request_speak_for_themselves(raising, error, status):
    response = raising(error)

    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"] == str(error)
    assert response.json()["status"] == status
    assert response.json()["instance"] == "/raise"


def test_an_input_error_names_its_field(raising):
    response = raising(InputError("task.prompt", "no field `txt`; the records have text, label"))

    assert response.status_code == 422
    assert response.json()["errors"] == [
        {
            "field": "task.prompt",
            "pointer": "/task/prompt",
            "detail": "no field `txt`; the records have text, label",
        }
    ]


def test_an_input_error_of_the_whole_spec_points_at_the_document(raising):
    [error] = raising(InputError("spec", "too large")).json()["errors"]

    assert error["pointer"] == ""


@pytest.mark.parametrize("error", [InfrastructureError(SECRET), ScoringError(SECRET), RuntimeError(SECRET)])
def test_other_errors_are_logged_and_leak_nothing(raising, error, caplog):
    response = raising(error)

    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert SECRET not in response.text
    assert SECRET in caplog.text
    assert response.json()["code"] == "internal"
    assert f"request {response.json()['request_id']}: GET /raise failed" in caplog.text


def test_a_store_that_fails_is_unavailable_for_now(raising, caplog):
    response = raising(StoreError(SECRET))

    assert response.status_code == 503
    assert response.headers["retry-after"] == "5"
    assert response.json()["code"] == "unavailable"
    assert SECRET not in response.text
    assert SECRET in caplog.text


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "code", "detail"),
    [
        ("GET", "/nope", {}, 404, "not_found", "no such path; see /openapi.json"),
        ("GET", "/v1/nope", {}, 404, "not_found", "no such path; see /openapi.json"),
        ("PUT", "/v1/jobs", {}, 405, "method_not_allowed", "does not support this method; the Allow header"),
        ("GET", "/v1/jobs/nope", {}, 404, "not_found", "there is no job 'nope'"),
        ("GET", "/v1/jobs?limit=0", {}, 422, "invalid", "limit: "),
        ("GET", "/v1/jobs", {"headers": {"Host": "evil.example"}}, 400, "bad_request", "_ALLOWED_HOSTS"),
        ("GET", "/v1/jobs", {"headers": {"Host": "a b"}}, 400, "bad_request", "_ALLOWED_HOSTS"),
        ("POST", "/v1/jobs", {"content": b" " * (MAX_BODY_BYTES + 1)}, 413, "body_too_large", TOO_LARGE),
        (
            "POST",
            "/v1/jobs",
            {"content": iter([b" " * MAX_BODY_BYTES, b" "])},
            413,
            "body_too_large",
            "",
        ),
        ("POST", "/v1/jobs", {"content": b"{nope"}, 422, "invalid", "expected a JSON body"),
    ],
)
def test_every_refusal_is_a_problem_document(shared, method, path, options, status, code, detail):
    response = shared.request(method, path, **options)

    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["status"], problem["code"], detail in problem["detail"]) == (status, code, True)
    assert problem["instance"] == path.partition("?")[0]
    assert problem["request_id"] == response.headers["x-request-id"]


def test_a_refused_method_is_told_all_that_are_there(shared):
    assert shared.put("/v1/jobs").headers["allow"] == "GET, POST"
    assert shared.patch("/v1/jobs/1/cancel").headers["allow"] == "POST"


def test_a_request_keeps_the_id_that_its_caller_gave_it(shared):
    assert shared.get("/healthz", headers={"X-Request-ID": "job-7.a"}).headers["x-request-id"] == "job-7.a"


@pytest.mark.parametrize("id", ["", "a b", "x" * 65, "<script>"])
def test_an_id_that_could_do_harm_is_replaced(shared, id):
    given = shared.get("/nope", headers={"X-Request-ID": id})

    assert len(given.headers["x-request-id"]) == 16
    assert given.json()["request_id"] == given.headers["x-request-id"]
    assert shared.get("/nope").headers["x-request-id"] != given.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "body", "errors"),
    [
        ("PATCH", "/v1/jobs/x", {"nmae": ""}, {"nmae": "unknown field; did you mean name?"}),
        (
            "POST",
            "/v1/webhooks",
            {"url": "https://a.example", "state": []},
            {"state": "unknown field; did you mean states?"},
        ),
        (
            "POST",
            "/v1/jobs/x/exports",
            {"model": 1},
            {"model": "unknown field; expected one of share, candidate"},
        ),
        (
            "POST",
            "/v1/jobs/x/exports",
            None,
            {"body": "a body is required: JSON, with one of share, candidate"},
        ),
        ("POST", "/v1/keys", [], {"body": "expected a mapping of fields; got a list"}),
    ],
)
def test_what_is_wrong_with_a_body_is_told_in_its_own_fields(shared, method, path, body, errors):
    answer = shared.request(method, path, **({} if body is None else {"json": body}))

    assert {error["field"]: error["detail"] for error in answer.json()["errors"]} == errors


def test_a_body_that_is_no_json_is_called_what_it_is(shared):
    answers = [shared.post(f"/v1/{route}", content="{", headers=JSON).json() for route in ("jobs", "keys")]

    assert [error["field"] for answer in answers for error in answer["errors"]] == ["spec", "body"]


@pytest.mark.parametrize("sent", ["application/x-www-form-urlencoded", None])
def test_a_body_that_is_not_said_to_be_json_is_told_how(shared, sent):
    answer = shared.post("/v1/jobs", content=b"{}", headers={} if sent is None else {"Content-Type": sent})

    [error] = answer.json()["errors"]
    got = sent or "no Content-Type"
    assert error["detail"] == (f"expected a JSON body, got {got}; send `Content-Type: application/json`")


def test_a_parameter_that_cannot_be_is_told_once(shared):
    [error] = shared.get("/v1/jobs?state=foo").json()["errors"]

    assert error["field"] == "state.0"
    assert error["detail"].startswith("Input should be 'queued', ")
    assert error["detail"].endswith("; got 'foo'")
