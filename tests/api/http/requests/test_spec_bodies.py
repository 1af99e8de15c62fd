"""Job files sent as YAML: they are read as JSON is, and their errors have lines."""

import threading

import pytest
from documents import JOB_TEXT as TEXT

from ranksieve.api.http.requests.spec_bodies import MOST_YAML_BYTES
from ranksieve.api.spec_text import MalformedError
from ranksieve.search.errors import InputError

YAML = {"Content-Type": "application/yaml; charset=utf-8"}


def refused(http, text, path="jobs", **params):
    answer = http.post(f"/v1/{path}", content=text, headers=YAML, params=params)
    assert answer.status_code == 422
    assert len(answer.content) < 20_000
    return [
        (error.get("line"), error.get("column"), error["field"], error["detail"])
        for error in answer.json()["errors"]
    ]


def test_yaml_and_json_make_the_same_job(http, spec):
    spec["task"]["data"].pop("sizes")
    spec.pop("resources")
    by_json = http.post("/v1/jobs", json=spec).json()
    by_yaml = http.post("/v1/jobs", content=TEXT, headers=YAML)

    assert by_yaml.status_code == 202
    assert by_yaml.json()["spec"] == by_json["spec"]


def test_yaml_sent_again_answers_the_same_job(http):
    first, again = (
        http.post("/v1/jobs", content=text, headers={**YAML, "Idempotency-Key": "one"})
        for text in (TEXT, f"# a comment\n{TEXT}")
    )

    assert first.json()["id"] == again.json()["id"]


@pytest.mark.parametrize("path", ["jobs", "estimates"])
def test_every_wrong_field_has_its_line(shared, path):
    text = TEXT.replace("kind: choice", "kind: choise").replace("[negative, positive]", "[negative, 1]")

    wrong = refused(shared, f"{text}modle: 1\n", path)

    assert [place[:3] for place in wrong] == [
        (4, 3, "task.kind"), (7, 23, "task.choices.1"), (10, 1, "modle"),
    ]  # fmt: skip


def test_what_preflight_refuses_has_its_line(http, preflight):
    preflight.error = InputError("task.data.source.path", "no such file")

    assert refused(http, TEXT, "estimates") == [(9, 14, "task.data.source.path", "no such file")]


def test_wrong_parameters_have_no_line(shared):
    [(line, _, field, _)] = refused(shared, TEXT, dry_run="true")

    assert (line, field) == (None, "dry_run")


@pytest.mark.parametrize(
    ("text", "line", "column", "detail"),
    [
        ("a: &a [x]\nb: *a", 2, 4, "aliases (*) are not supported; repeat the value"),
        ("a: \x00", None, None, "not valid YAML or JSON: unacceptable character #x0000"),
        (b"\xff\xfe", None, None, "not UTF-8 text: invalid start byte at byte 0"),
        ("#" * (MOST_YAML_BYTES + 1), None, None, "must have at most 65,536 bytes as YAML; got 65,537"),
    ],
    ids=["alias", "character", "bytes", "large"],
)
def test_what_is_no_yaml_is_told_with_its_line(shared, text, line, column, detail):
    [(*place, field, found)] = refused(shared, text)

    assert (place, field) == ([line, column], "spec")
    assert found.startswith(detail)


def test_many_values_are_told_briefly(shared):
    [(line, column, field, detail)] = refused(shared, "- 1\n" * 1000)

    assert (line, column, field) == (1, 1, "spec")
    assert detail == "expected a mapping of fields; got a list"


def test_binary_values_are_no_unread_body(shared):
    [wrong, *_] = refused(shared, TEXT.replace('"{{ label }}"', "!!binary aGk="))

    assert wrong[:3] == (6, 3, "task.answer")


def test_others_are_answered_while_yaml_is_parsed(http, spec, monkeypatch):
    parsing, go = threading.Event(), threading.Event()

    def slow(text):
        parsing.set()
        assert go.wait(20)
        raise MalformedError("at last")

    monkeypatch.setattr("ranksieve.api.http.requests.spec_bodies.SpecText", slow)
    answers = []
    sender = threading.Thread(
        target=lambda: answers.append(http.post("/v1/jobs", content=TEXT, headers=YAML))
    )
    sender.start()
    assert parsing.wait(20)

    assert http.post("/v1/jobs", json=spec).status_code == 202
    go.set()
    sender.join()
    assert answers[0].json()["errors"][0]["detail"] == "at last"


def test_more_yaml_of_one_owner_than_may_wait_is_refused(http, monkeypatch):
    monkeypatch.setattr("ranksieve.api.http.places.OWNER_WAITING", -2)  # as if the owner's queue were full

    answer = http.post("/v1/jobs", content=TEXT, headers=YAML)

    assert answer.status_code == 429
    assert "wait to be checked; send fewer at once" in answer.json()["detail"]
