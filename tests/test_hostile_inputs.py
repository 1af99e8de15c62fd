"""The inputs of the hostile campaign: the same by the same seed, and every one is made; what it takes for a fault."""

import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hostile.inputs import Draw, Expected, Input, Target
from hostile.sending import Answer, fault
from hostile_campaign import KINDS, drawn
from tiny_job import document_of, make_world

from ranksieve.service.spec import JobSpec

JOB = {name: value for name, value in document_of(0).items() if name != "policy"}
PROBLEM = {"content-type": "application/problem+json"}


@pytest.fixture
def target(tmp_path: Path) -> Target:
    make_world(tmp_path)
    return Target(host="127.0.0.1:1", root=tmp_path, data_dir=tmp_path / "data", honest_job="0" * 24, job=JOB)


def test_every_input_is_drawn_and_follows_from_the_seed(target: Target, tmp_path: Path) -> None:
    other = Target(
        host=target.host, root=tmp_path / "other", data_dir=target.data_dir, honest_job="0" * 24, job=JOB
    )
    other.root.mkdir()
    make_world(other.root)

    def inputs(target: Target) -> list[Input]:
        return [one for _, one in drawn(Random(7), target, ["a", "b", "c"], 300, list(KINDS))]

    first, again = inputs(target), inputs(other)
    assert [(one.kind, one.name, one.expected) for one in first] == [
        (one.kind, one.name, one.expected) for one in again
    ]
    made = Counter((one.kind, one.name) for one in first)
    makes = {
        (kind, make.__name__.strip("_").replace("_", " "))
        for kind, (_, all_) in KINDS.items()
        for make in all_
    }
    assert set(made) == makes


def test_the_job_file_that_inputs_change_is_right(target: Target) -> None:
    draw = Draw(rng=Random(0), target=target, key="k", number=0, kind="job files", name="none")
    (sent,) = draw.job({}).parts
    head, _, body = sent.partition(b"\r\n\r\n")
    assert JobSpec.model_validate_json(body).name == JOB["name"]
    assert f"Content-Length: {len(body)}" in head.decode()


@pytest.mark.parametrize(
    ("expected", "answer", "found"),
    [
        (Expected.REFUSED, Answer(status=422, headers=PROBLEM), None),
        (Expected.REFUSED, Answer(status=422), "form"),
        (Expected.REFUSED, Answer(status=200), "through"),
        (Expected.REFUSED, Answer(status=202, body=b'{"id": "1"}'), "through"),
        (Expected.REFUSED, Answer(status=500, headers=PROBLEM), "5xx"),
        (Expected.REFUSED, Answer(status=503, headers=PROBLEM), "5xx"),
        (Expected.REFUSED, Answer(status=0), "silent"),
        (Expected.CUT_OFF, Answer(status=0), None),
        (Expected.CUT_OFF, Answer(status=-1), "silent"),
        (Expected.CUT_OFF, Answer(status=200), "through"),
        (Expected.FAILS, Answer(status=202, body=b'{"id": "1"}'), None),
        (Expected.FAILS, Answer(status=200), "through"),
        (Expected.REFUSED, Answer(status=404, headers=PROBLEM, body=b"a secret of others"), "leak"),
    ],
)
def test_faults_of_answers(expected: Expected, answer: Answer, found: str | None) -> None:
    assert fault(expected, answer, ["secret"]) == found


def test_only_an_excuse_with_a_time_is_asked_again() -> None:
    later = {"retry-after": "5"}
    assert Answer(status=429, headers=later).retry_s == 5
    assert Answer(status=429).retry_s is None
    assert Answer(status=503, headers=later).retry_s is None
    assert Answer(status=202, body=json.dumps({"id": "7"}).encode()).job == "7"
