"""Exceptions as problem documents."""

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from api import errors
from search.errors import ConflictError, InfrastructureError, InputError, NotFoundError, ScoringError

SECRET = "/home/someone/secret.txt"


@pytest.fixture
def raising():
    """A function that lets a route raise an exception, and returns the answer."""
    app = FastAPI()
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
    if not isinstance(error, RuntimeError):  # those Starlette raises again, and the HTTP server logs them
        assert SECRET in caplog.text


def test_unknown_paths_and_methods_are_problem_documents(http):
    for response, status in ((http.get("/nope"), 404), (http.delete("/v1/jobs"), 405)):
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
