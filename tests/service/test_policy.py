"""What each effort sets, and what follows from it for the phases of a job."""

from collections.abc import Callable
from typing import Any

import pytest
from tuning import tune

from ranksieve.service import policy
from ranksieve.service.policy import policy_of
from ranksieve.service.spec import JobSpec

Document = dict[str, Any]
MakeSpec = Callable[..., JobSpec]


@pytest.fixture
def document(make_spec: MakeSpec) -> Document:
    return make_spec().canonical()


@pytest.mark.parametrize(
    ("effort", "epochs", "generations", "evaluations"),
    [("quick", 0, 0, 400), ("normal", 1, 3, 60), ("thorough", 3, 20, 400)],
)
def test_efforts(
    document: Document,
    effort: str,
    epochs: int,
    generations: int,
    evaluations: int,
) -> None:
    document["task"]["data"]["sizes"] = {"calibration": 2048}
    spec = JobSpec.model_validate(document | {"effort": effort})
    chosen = policy_of(spec)
    assert chosen.train_epochs == epochs
    assert (chosen.search.generations, chosen.search.max_evaluations) == (generations, evaluations)


@pytest.mark.parametrize(
    ("effort", "records", "passes"),
    [
        ("normal", 9000, 1),
        ("normal", 1025, 1),
        ("normal", 1024, 2),
        ("normal", 64, 4),
        ("normal", None, 1),
        ("thorough", 9000, 3),
        ("thorough", 500, 4),
        ("quick", 64, 0),
    ],
)
def test_few_records_are_passed_over_more_often(
    document: Document, effort: str, records: int | None, passes: int
) -> None:
    document["task"]["data"]["sizes"] = {} if records is None else {"calibration": records}
    spec = JobSpec.model_validate(document | {"effort": effort})
    assert policy_of(spec).train_epochs == passes


@pytest.mark.parametrize("effort", ["normal", "thorough"])
@pytest.mark.parametrize("kind", ["generate", "lm"])
@pytest.mark.parametrize("objective", ["max_drop", "pareto"])
def test_texts_are_trained_on_and_written_answers_tune_all_blocks(
    document: Document, effort: str, kind: str, objective: str
) -> None:
    document["task"] |= {"kind": kind, "choices": None}
    spec = JobSpec.model_validate(document | {"effort": effort, "objective": {"kind": objective}})
    assert policy_of(spec).train_epochs > 0
    assert policy.tuned_depth(spec) == {"generate": 1, "lm": None}[kind]
    assert policy.trained_shares(spec) == policy.TRAINED
    assert policy.train_rate(spec) == policy.TRAIN_RATE_WRITTEN
    assert policy.midway_share(spec) == policy.MIDWAY_SHARE


def test_small_models_are_trained_where_the_smallest_is_wanted(document: Document) -> None:
    specs = [
        JobSpec.model_validate(document | {"objective": {"kind": kind}}) for kind in ("max_drop", "pareto")
    ]
    assert [policy.trained_shares(spec) for spec in specs] == [(0.1, 0.5), (0.12, 0.6)]


def test_what_the_job_file_says_of_the_search_counts(document: Document) -> None:
    document |= {"seed": 7, "search": {"max_evaluations": 33}}
    document["task"]["data"]["sizes"] = {"search": 99}
    search = policy_of(JobSpec.model_validate(document)).search
    assert (search.max_evaluations, search.seed, search.full) == (33, 7, 99)


@pytest.mark.parametrize(
    ("changes", "objective", "midway"),
    [
        ({}, {"kind": "max_drop"}, 0.3),
        ({}, {"kind": "target_params", "share": 0.5}, 0.5),
        ({}, {"kind": "target_params", "share": 1.0}, None),
        ({"midway_share": 0.4}, {"kind": "target_params", "share": 0.5}, 0.4),
        ({"midway_share": 1.0}, {"kind": "max_drop"}, None),
    ],
)
def test_what_the_second_moments_are_gathered_on_the_way_to(
    document: Document, changes: Document, objective: Document, midway: float | None
) -> None:
    spec = JobSpec.model_validate(tune(document | {"policy": changes, "objective": objective}))
    assert policy.midway_share(spec) == midway


@pytest.mark.parametrize(("step", "bits", "chosen"), [(16, None, 16), (1, None, 1), (1, 4, 16), (24, 4, 48)])
def test_ranks_fill_groups_where_weights_are_rounded(
    document: Document, step: int, bits: int | None, chosen: int
) -> None:
    spec = JobSpec.model_validate(tune(document | {"bits": bits, "policy": {"rank_step": step}}))
    assert policy_of(spec).rank_step == chosen
