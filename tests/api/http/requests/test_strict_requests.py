"""What a route would ignore is refused, before anything is done."""

import json

import pytest

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def http(shared):
    """What is refused leaves no trace, so one server does for all."""
    yield shared
    assert shared.get("/v1/jobs").json()["jobs"] == []


@pytest.mark.parametrize(
    ("method", "url", "field", "detail"),
    [
        ("POST", "/v1/jobs?dry_run=true", "dry_run", "unknown parameter; expected none"),
        ("GET", "/v1/jobs?limits=3", "limits", "unknown parameter; did you mean limit?"),
        (
            "GET",
            "/v1/jobs/x/generations?zzz=1",
            "zzz",
            "unknown parameter; expected one of after, limit, format",
        ),
        ("DELETE", "/v1/jobs/x?force=true", "force", "unknown parameter; expected none"),
        ("GET", "/v1/models?all", "all", "unknown parameter; expected none"),
    ],
)
def test_an_unknown_parameter_is_refused_with_those_there_are(http, spec, method, url, field, detail):
    answer = http.request(method, url, **({"json": spec} if method == "POST" else {}))

    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"field": field, "detail": detail}]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"search": {"seed": 1}, "model": {}, "search": {"overlap": 3}}', "search"),
        ('{"search": {"seed": 1, "seed": 2}}', "search.seed"),
        (
            '{"search": {"seeds": [{"random": 1}, {"random": 2, "random": 3}]}}',
            "search.seeds.1.random",
        ),
        ('{"labels": {"a": "x", "\\u0061": "y"}}', "labels.a"),
    ],
)
def test_a_key_that_is_given_twice_is_refused_by_its_path(http, body, field):
    answer = http.post("/v1/jobs", content=body, headers=JSON)

    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {
            "field": field,
            "pointer": "/" + field.replace(".", "/"),
            "detail": "given twice; merge the two into one",
        }
    ]


def test_so_it_is_in_every_body(http):
    answer = http.post("/v1/keys", content='{"owner": "alice", "owner": "bob"}', headers=JSON)

    assert [error["field"] for error in answer.json()["errors"]] == ["owner"]
    assert http.get("/v1/keys").json() == {"keys": []}


def test_a_key_that_is_no_text_can_be_told_of(http):
    answer = http.post("/v1/jobs", content='{"\\ud800": 1, "\\ud800": 2}', headers=JSON)

    assert answer.status_code == 422
    assert json.loads(answer.text)["errors"][0]["field"] == "\ud800"
