"""What runs write of their jobs: moves, events and generations."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from typing import Any

import pytest
from databases import ON_EACH
from sqlalchemy.exc import StatementError

from ranksieve.search.errors import ConflictError, NotFoundError
from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import TRANSITIONS, Job, JobError, JobState
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store

MakeSpec = Callable[..., JobSpec]
MakeCandidate = Callable[..., dict[str, Any]]
Bring = Callable[[Store, Job, JobState], Job]
StatesOf = Callable[[Store, str], list[str]]


def plain(candidates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Scorings without the ids that the store gave them."""
    assert len({candidate["id"] for candidate in candidates}) == len(candidates)
    return [{name: value for name, value in one.items() if name != "id"} for one in candidates]


@ON_EACH
def test_a_job_runs_to_success(store: Store, make_spec: MakeSpec, bring: Bring, states_of: StatesOf) -> None:
    job = bring(store, store.submissions.create_job(make_spec()), JobState.FINALIZING)
    assert job.started_at is not None
    assert job.finished_at is None

    done = store.runs.transition(job.id, JobState.SUCCEEDED, result={"promise_held": True}, epoch=job.epoch)

    assert store.job(job.id) == done
    assert done.result == {"promise_held": True}
    assert done.started_at == job.started_at
    assert done.finished_at is not None
    assert done.finished_at >= job.started_at
    assert states_of(store, job.id) == [
        "queued",
        "validating",
        "preparing",
        "searching",
        "finalizing",
        "succeeded",
    ]


def test_a_failure_is_kept_and_told(store: Store, make_spec: MakeSpec) -> None:
    job = store.submissions.create_job(make_spec())
    error = JobError(code="input", message="no such file", field="model.path")

    failed = store.runs.transition(job.id, JobState.FAILED, error=error, epoch=job.epoch)

    assert store.job(job.id).error == failed.error == error
    assert store.events(job.id)[-1].data == {
        "state": "failed",
        "error": {"code": "input", "message": "no such file", "field": "model.path"},
    }


@pytest.mark.parametrize("state", JobState)
def test_only_legal_moves_are_made(store: Store, make_spec: MakeSpec, state: JobState, bring: Bring) -> None:
    for to in JobState:
        job = bring(store, store.submissions.create_job(make_spec()), state)
        if to in TRANSITIONS[state]:
            assert store.runs.transition(job.id, to, epoch=job.epoch).state is to
            continue
        before = store.events(job.id)
        with pytest.raises(ConflictError, match=f"is {state}: next can be .*; got {to}"):
            store.runs.transition(job.id, to, epoch=job.epoch)
        assert store.job(job.id) == job
        assert store.events(job.id) == before


@ON_EACH
def test_a_move_whose_result_is_not_json_changes_nothing(
    store: Store, make_spec: MakeSpec, bring: Bring, states_of: StatesOf
) -> None:
    job = bring(store, store.submissions.create_job(make_spec()), JobState.FINALIZING)

    with pytest.raises((StatementError, ValueError), match="not JSON compliant"):
        store.runs.transition(job.id, JobState.SUCCEEDED, result={"metric": float("nan")}, epoch=job.epoch)

    assert store.job(job.id) == job
    assert states_of(store, job.id)[-1] == "finalizing"


def test_events_come_in_pages(store: Store, make_spec: MakeSpec) -> None:
    job = store.submissions.create_job(make_spec())
    appended = [
        store.runs.append_event(
            job.id, EventType.PHASE_PROGRESS, {"phase": "search", "done": done, "total": 4}, epoch=job.epoch
        )
        for done in range(4)
    ]

    first = store.events(job.id, after=1, limit=3)
    second = store.events(job.id, after=first[-1].seq, limit=3)

    assert first + second == appended
    assert [event.seq for event in appended] == [2, 3, 4, 5]
    assert appended[0].at.tzinfo is UTC


@ON_EACH
def test_threads_append_events_without_a_gap(store: Store, make_spec: MakeSpec) -> None:
    job = store.submissions.create_job(make_spec())
    together = threading.Barrier(8)

    def append_ten(thread: int) -> None:
        together.wait()
        for number in range(10):
            store.runs.append_event(
                job.id, EventType.PHASE_PROGRESS, {"thread": thread, "number": number}, epoch=job.epoch
            )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(append_ten, range(8)))

    events = store.events(job.id)
    assert [event.seq for event in events] == list(range(1, 82))
    numbers = [event.data["number"] for event in events if event.data.get("thread") == 3]
    assert numbers == list(range(10))


@ON_EACH
def test_a_generation_is_kept_with_its_scorings_and_state(
    store: Store, make_spec: MakeSpec, make_candidate: MakeCandidate
) -> None:
    job = store.submissions.create_job(make_spec())
    scored, failed = make_candidate(0, 16, -1), make_candidate(0, 0, 32, failure="out of memory")
    record = {"generation": 0, "kept_share": 0.4, "accepted": True}

    event = store.runs.save_generation(
        job.id, record, [scored, failed], {"rng": [1, 2], "next": 1}, epoch=job.epoch
    )

    assert (event.type, event.seq, event.data) == (EventType.GENERATION_COMPLETED, 2, record)
    assert store.events(job.id)[-1] == event
    assert store.generations(job.id) == [record]
    assert store.memo(job.id) == plain(store.candidates(job.id, limit=10)) == [scored, failed]
    assert store.search_state(job.id) == {"rng": [1, 2], "next": 1}


@ON_EACH
def test_generations_and_scorings_come_in_pages(
    store: Store, make_spec: MakeSpec, make_candidate: MakeCandidate
) -> None:
    job, other = store.submissions.create_job(make_spec()), store.submissions.create_job(make_spec())
    saved = [[make_candidate(number, number, index) for index in range(3)] for number in range(3)]
    for number, candidates in enumerate(saved):
        store.runs.save_generation(
            job.id, {"generation": number}, candidates, {"next": number + 1}, epoch=job.epoch
        )
        store.runs.save_generation(other.id, {"generation": number}, [], {"next": -1}, epoch=other.epoch)

    assert store.generations(job.id, after=0, limit=1) == [{"generation": 1}]
    assert plain(store.candidates(job.id, limit=4)) == [*saved[0], *saved[1][:1]]
    assert plain(store.candidates(job.id, limit=2, generation=2)) == saved[2][:2]
    ids = [row["id"] for row in store.candidates(job.id)]
    assert ids == sorted(ids)
    assert plain(store.candidates(job.id, limit=2, after=ids[1])) == [*saved[0][2:], *saved[1][:1]]
    assert plain(store.candidates(job.id, generation=1, after=ids[3])) == saved[1][1:]
    assert store.candidates(job.id, after=ids[-1]) == []
    with pytest.raises(NotFoundError, match="no candidate"):
        store.candidates(other.id, after=ids[0])
    assert store.memo(job.id) == [*saved[0], *saved[1], *saved[2]]
    assert store.search_state(job.id) == {"next": 3}


@ON_EACH
def test_half_a_generation_is_not_kept(
    store: Store, make_spec: MakeSpec, make_candidate: MakeCandidate
) -> None:
    job = store.submissions.create_job(make_spec())
    store.runs.save_generation(
        job.id, {"generation": 0}, [make_candidate(0, 16)], {"next": 1}, epoch=job.epoch
    )
    broken = make_candidate(1, 16) | {"kept_share": None}

    with pytest.raises(StatementError):
        store.runs.save_generation(
            job.id, {"generation": 1}, [make_candidate(1, 32), broken], {"next": 2}, epoch=job.epoch
        )

    assert store.generations(job.id) == [{"generation": 0}]
    assert len(store.memo(job.id)) == 1
    assert store.search_state(job.id) == {"next": 1}
    assert len(store.events(job.id)) == 2


@ON_EACH
def test_any_text_is_kept_as_far_as_the_database_can_hold_it(
    store: Store, make_spec: MakeSpec, make_candidate: MakeCandidate
) -> None:
    document = make_spec("☂ \U0001f400").canonical()
    document["task"]["prompt"] += "\0"
    spec = JobSpec.model_validate(document)
    job = store.submissions.create_job(spec)

    store.runs.save_generation(
        job.id, {"generation": 0}, [make_candidate(0, 1, failure="a \0 ☂")], {}, epoch=job.epoch
    )
    store.runs.append_event(job.id, EventType.CANDIDATE_FAILED, {"reason": "a \0 ☂"}, epoch=job.epoch)

    assert store.job(job.id).spec == spec
    assert store.job(job.id).name == "☂ \U0001f400"
    assert store.events(job.id)[-1].data == {"reason": "a \0 ☂"}
    assert store.memo(job.id)[0]["failure"] in ("a \0 ☂", "a \ufffd ☂")
    with pytest.raises(NotFoundError):
        store.job("\0")


def test_a_generation_is_saved_once(store: Store, make_spec: MakeSpec) -> None:
    job = store.submissions.create_job(make_spec())
    store.runs.save_generation(job.id, {"generation": 0}, [], {"next": 1}, epoch=job.epoch)

    with pytest.raises(ConflictError, match=f"generation 0 of job {job.id} is already saved"):
        store.runs.save_generation(job.id, {"generation": 0}, [], {"next": 9}, epoch=job.epoch)

    assert store.search_state(job.id) == {"next": 1}


def test_a_job_that_has_not_searched_has_no_state(store: Store, make_spec: MakeSpec) -> None:
    job = store.submissions.create_job(make_spec())

    assert store.search_state(job.id) is None
    assert store.generations(job.id) == store.memo(job.id) == []
