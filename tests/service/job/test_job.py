from itertools import pairwise

import pytest

from ranksieve.search.errors import (
    ConflictError,
    InfrastructureError,
    InputError,
    ScoringError,
    UnresumableError,
)
from ranksieve.service.job.job import TRANSITIONS, JobError, JobState


def test_the_straight_way_leads_to_success() -> None:
    way = [
        JobState.QUEUED,
        JobState.VALIDATING,
        JobState.PREPARING,
        JobState.SEARCHING,
        JobState.FINALIZING,
        JobState.SUCCEEDED,
    ]

    assert all(after in TRANSITIONS[before] for before, after in pairwise(way))


def test_ends_are_terminal_and_reachable_from_everywhere_else() -> None:
    ends = {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}

    assert {state for state in JobState if state.terminal} == ends
    others = set(JobState) - ends
    assert all(JobState.CANCELLED in TRANSITIONS[state] for state in others)
    waiting = {JobState.PAUSED, JobState.CRASHED}  # nothing of theirs runs
    assert all({JobState.FAILED, JobState.CRASHED} <= TRANSITIONS[state] for state in others - waiting)
    assert all(TRANSITIONS[state] == {JobState.QUEUED, JobState.CANCELLED} for state in waiting)


def test_a_job_cut_off_in_mid_run_is_interruptible() -> None:
    assert {state for state in JobState if state.interruptible} == {
        JobState.VALIDATING,
        JobState.PREPARING,
        JobState.SEARCHING,
        JobState.STOPPING,
        JobState.FINALIZING,
    }


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            InputError("task.prompt", "is too long"),
            {"code": "input", "message": "is too long", "field": "task.prompt"},
        ),
        (UnresumableError("is of version 1"), {"code": "input", "message": "is of version 1"}),
        (ScoringError("dense failed"), {"code": "scoring", "message": "dense failed"}),
        (InfrastructureError("no memory"), {"code": "infrastructure", "message": "no memory"}),
    ],
)
def test_errors_on_purpose_speak_for_themselves(error: Exception, expected: dict[str, str]) -> None:
    assert JobError.of(error, "j1").as_json() == expected


@pytest.mark.parametrize("error", [ZeroDivisionError("secret"), ConflictError("secret")])
def test_other_errors_point_to_the_log(error: Exception) -> None:
    stored = JobError.of(error, "j1")

    assert stored.code == "internal"
    assert type(error).__name__ in stored.message
    assert "j1" in stored.message
    assert "secret" not in stored.message
