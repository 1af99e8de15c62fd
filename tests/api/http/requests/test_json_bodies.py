"""Bodies that are small to send and dear to read: what they may cost is bounded."""

import json

import pytest

from ranksieve.api.http.requests.json_bodies import MOST_KEYS, MOST_VALUES
from ranksieve.api.spec_errors import MOST_TOLD

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def http(shared):
    """What is refused leaves no trace, so one server does for all."""
    yield shared
    assert shared.get("/v1/jobs").json()["jobs"] == []


def refused(http, body):
    answer = http.post("/v1/jobs", content=body, headers=JSON)
    assert answer.status_code == 422
    assert len(answer.content) < 20_000
    return answer.json()


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({f"{n:x}": 1 for n in range(330_000)}),
        json.dumps({"search": {"seeds": [{f"{n:x}": 1} for n in range(MOST_KEYS)], "a": {"b": 1}}}),
        "[" * 2_000_000,
        json.dumps({"task": {"choices": [1] * (MOST_VALUES + 1)}}),
    ],
    ids=["unknown fields", "keys of many objects", "nested", "a long list"],
)
def test_a_body_of_too_many_parts_is_refused_as_a_whole(http, body):
    [error] = refused(http, body)["errors"]

    assert error["field"] == "body"
    assert error["detail"].startswith("must have at most 20,000 keys and 200,000 values; got more")


def test_the_first_wrong_fields_are_told_and_how_many_more_there_are(http):
    problem = refused(http, json.dumps({f"k{n}": 1 for n in range(5000)}))

    *told, rest = problem["errors"]
    assert len(told) == MOST_TOLD
    assert told[0]["field"] == "model"
    assert rest["field"] == "spec"
    assert (
        rest["detail"] == "4,982 more errors; correct the ones above first"
    )  # model and task are missing, too
    assert problem["detail"].endswith(rest["detail"])


def test_of_a_long_list_of_wrong_items_the_first_is_told(http, spec):
    spec["search"] = {"seeds": [{"ranks": ["x"] * 100_000}], "constraints": [1] * 50_000}

    told = {error["field"] for error in refused(http, json.dumps(spec))["errors"]}

    too_short = "search.seeds.0.ranks"  # without its wrong item
    assert told == {"search.seeds.0.ranks.0", too_short, "search.constraints.0"}


def test_a_long_name_is_cut_where_it_is_told(http):
    problem = refused(http, json.dumps({"k" * 1_000_000: 1}))

    assert any(error["detail"].startswith("unknown field; expected one of") for error in problem["errors"])


def test_unknown_parameters_are_told_as_briefly(http):
    answer = http.get("/v1/jobs?" + "&".join(f"k{n}" for n in range(5000)))

    assert answer.status_code == 422
    *told, rest = answer.json()["errors"]
    assert len(told) == MOST_TOLD
    assert rest == {"field": "query", "detail": "4,980 more errors; correct the ones above first"}


def test_what_counts_as_text_counts_nothing(http, spec):
    spec["task"]["prompt"] = '{"a": [' + ",:" * 49_000 + '"\\'

    assert http.post("/v1/estimates", json=spec).status_code == 200


@pytest.mark.parametrize(
    "body", ['{"name": "a"}'.encode("utf-16"), b'"' + b'\\"' * 1_000_000, b'{"name": "\xff"}']
)
def test_what_is_no_json_text_is_refused_at_once(http, body):
    assert http.post("/v1/jobs", content=body, headers=JSON).status_code in (400, 422)
