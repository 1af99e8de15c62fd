"""The contract of a job store; every backend of `store_url` must keep it."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import StatementError

from ranksieve.search.errors import (
    ConflictError,
    LimitError,
    NotFoundError,
    OutdatedError,
    StoreError,
    SupersededError,
)
from ranksieve.service.job.changes import JobChanges
from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import TRANSITIONS, Job, JobError, JobState, Request
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import LEASE_S, Store
from ranksieve.service.store.times import database_time

MakeSpec = Callable[..., JobSpec]
Advance = Callable[[float], None]
MakeCandidate = Callable[..., dict[str, Any]]
Bring = Callable[[Store, Job, JobState], Job]
Claim = Callable[..., Job]


def held(store: Store, job: Job) -> Job:
    """A job, held by whoever runs it where its state says that somebody does."""
    return store.claims.renew(job.id, epoch=job.epoch) if job.state.interruptible else job


def plain(candidates: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Scorings without the ids that the store gave them."""
    assert len({candidate["id"] for candidate in candidates}) == len(candidates)
    return [{name: value for name, value in one.items() if name != "id"} for one in candidates]


def states_of(store: Store, job_id: str) -> list[str]:
    return [event.data["state"] for event in store.events(job_id) if event.type is EventType.JOB_STATE]


def test_created_job_is_queued_and_read_back_as_it_was(store: Store, make_spec: MakeSpec) -> None:
    spec = make_spec("reviews", team="nlp")

    job = store.submissions.create_job(spec)

    assert store.job(job.id) == job
    assert (job.name, job.labels, job.spec) == ("reviews", {"team": "nlp"}, spec)
    assert (job.state, job.cancel_requested) == (JobState.QUEUED, False)
    assert (job.started_at, job.finished_at, job.error, job.result) == (None, None, None, None)
    assert job.created_at.tzinfo is UTC
    assert [(event.seq, event.data) for event in store.events(job.id)] == [(1, {"state": "queued"})]


def test_jobs_are_listed_newest_first_in_pages(store: Store, make_spec: MakeSpec) -> None:
    ids = [store.submissions.create_job(make_spec(str(number))).id for number in range(5)]

    first = store.jobs(limit=3)
    second = store.jobs(limit=3, after=first[-1].id)

    assert [job.id for job in first + second] == ids[::-1]


def test_jobs_are_listed_by_state(store: Store, make_spec: MakeSpec) -> None:
    queued, running = store.submissions.create_job(make_spec()), store.submissions.create_job(make_spec())
    store.runs.transition(running.id, JobState.VALIDATING, epoch=running.epoch)

    assert [job.id for job in store.jobs(states=[JobState.QUEUED])] == [queued.id]
    assert [job.id for job in store.jobs(states=[JobState.VALIDATING])] == [running.id]
    assert store.jobs(states=[JobState.FAILED]) == []
    both = store.jobs(states=[JobState.FAILED, JobState.VALIDATING, JobState.QUEUED])
    assert {job.id for job in both} == {queued.id, running.id}


def test_a_job_runs_to_success(store: Store, make_spec: MakeSpec, bring: Bring) -> None:
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


def test_more_can_be_said_of_a_move(store: Store, make_spec: MakeSpec) -> None:
    job = store.submissions.create_job(make_spec())

    store.runs.transition(job.id, JobState.VALIDATING, data={"actors": 2}, epoch=job.epoch)

    assert store.events(job.id)[-1].data == {"state": "validating", "actors": 2}


ON_SQLITE = pytest.mark.parametrize("make_database", ["sqlite"], indirect=True)
"""For tables of states, which no database decides."""


@ON_SQLITE
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


def test_a_move_whose_result_is_not_json_changes_nothing(
    store: Store, make_spec: MakeSpec, bring: Bring
) -> None:
    job = bring(store, store.submissions.create_job(make_spec()), JobState.FINALIZING)

    with pytest.raises((StatementError, ValueError), match="not JSON compliant"):
        store.runs.transition(job.id, JobState.SUCCEEDED, result={"metric": float("nan")}, epoch=job.epoch)

    assert store.job(job.id) == job
    assert states_of(store, job.id)[-1] == "finalizing"


def test_cancelling_a_queued_job_ends_it_at_once(store: Store, make_spec: MakeSpec) -> None:
    job = store.submissions.create_job(make_spec())

    cancelled = store.user_requests.ask(job.id, Request.CANCEL)

    assert (cancelled.state, cancelled.cancel_requested) == (JobState.CANCELLED, True)
    assert cancelled.finished_at is not None
    assert states_of(store, job.id) == ["queued", "cancelled"]
    assert store.claims.claim_next() is None


def test_cancelling_a_running_job_marks_it(store: Store, make_spec: MakeSpec, bring: Bring) -> None:
    job = held(store, bring(store, store.submissions.create_job(make_spec()), JobState.SEARCHING))

    marked = store.user_requests.ask(job.id, Request.CANCEL)

    assert (marked.state, marked.cancel_requested) == (JobState.SEARCHING, True)
    assert store.user_requests.ask(job.id, Request.CANCEL) == marked
    assert store.runs.transition(job.id, JobState.CANCELLED, epoch=job.epoch).state is JobState.CANCELLED


def test_a_job_that_is_to_be_cancelled_does_not_succeed(
    store: Store, make_spec: MakeSpec, bring: Bring
) -> None:
    job = held(store, bring(store, store.submissions.create_job(make_spec()), JobState.FINALIZING))
    store.user_requests.ask(job.id, Request.CANCEL)

    with pytest.raises(ConflictError, match="asked to cancel"):
        store.runs.transition(job.id, JobState.SUCCEEDED, result={}, epoch=job.epoch)

    assert store.job(job.id).result is None


@ON_SQLITE
@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED])
def test_a_job_that_has_ended_is_not_cancelled(
    store: Store, make_spec: MakeSpec, state: JobState, bring: Bring
) -> None:
    job = bring(store, store.submissions.create_job(make_spec()), state)

    with pytest.raises(ConflictError, match=f"already ended: {state}"):
        store.user_requests.ask(job.id, Request.CANCEL)

    assert store.job(job.id) == job


WAYS_OF_ASKING = {
    Request.PAUSE: {
        JobState.QUEUED: JobState.PAUSED, JobState.VALIDATING: ..., JobState.PREPARING: ..., JobState.SEARCHING: ...,
        JobState.STOPPING: ...,
        JobState.FINALIZING: ..., JobState.PAUSED: JobState.PAUSED,
    },
    Request.RESUME: {
        **{state: ... for state in JobState if state.interruptible or state is JobState.QUEUED},
        JobState.PAUSED: JobState.QUEUED, JobState.CRASHED: JobState.QUEUED,
    },
    Request.STOP: {
        JobState.VALIDATING: ..., JobState.PREPARING: ..., JobState.SEARCHING: JobState.STOPPING,
        JobState.STOPPING: ...,
    },
    Request.CANCEL: {
        **{state: ... for state in JobState if state.interruptible},
        JobState.QUEUED: JobState.CANCELLED, JobState.PAUSED: JobState.CANCELLED, JobState.CRASHED: JobState.CANCELLED,
    },
}  # fmt: skip
"""What becomes of a job in a state when that is asked; `...`: it is marked. Elsewhere it makes no sense."""


@ON_SQLITE
@pytest.mark.parametrize("request_", Request)
def test_a_request_is_done_or_marked_or_refused(
    store: Store, make_spec: MakeSpec, request_: Request, bring: Bring
) -> None:
    for state in JobState:
        job = held(store, bring(store, store.submissions.create_job(make_spec()), state))
        before = store.events(job.id)
        if state not in WAYS_OF_ASKING[request_]:
            with pytest.raises(ConflictError, match=job.id):
                store.user_requests.ask(job.id, request_)
            assert (store.job(job.id), store.events(job.id)) == (job, before)
            continue
        asked = store.user_requests.ask(job.id, request_)
        expected = WAYS_OF_ASKING[request_][state]
        assert asked.state is (state if expected is ... else expected)
        reported = store.events(job.id)
        assert len(reported) - len(before) == (asked.state is not state)
        if request_ is not Request.CANCEL or not asked.state.terminal:  # asked again, it makes no difference
            assert store.user_requests.ask(job.id, request_) == asked
            assert store.events(job.id) == reported


@pytest.mark.parametrize("released", [True, False])
@pytest.mark.parametrize(
    ("request_", "to"), [(Request.PAUSE, JobState.PAUSED), (Request.CANCEL, JobState.CANCELLED)]
)
def test_a_job_without_a_holder_is_paused_and_cancelled_at_once(
    timed: Store,
    advance: Advance,
    make_spec: MakeSpec,
    request_: Request,
    to: JobState,
    released: bool,
    bring: Bring,
) -> None:
    for state in (state for state in JobState if state.interruptible):
        job = held(timed, bring(timed, timed.submissions.create_job(make_spec()), state))
        if released:
            timed.claims.release(job.id, epoch=job.epoch)
        else:
            advance(LEASE_S)

        asked = timed.user_requests.ask(job.id, request_)

        assert (asked.state, asked.pause_requested) == (to, False)
        assert states_of(timed, job.id)[-1] == to
        assert timed.claims.claim_next() is None
        with pytest.raises(SupersededError):
            timed.claims.renew(job.id, epoch=job.epoch)


def test_a_paused_job_is_claimed_once_resumed_and_its_former_holder_may_write_no_more(
    store: Store, make_spec: MakeSpec, claim: Claim
) -> None:
    store.submissions.create_job(make_spec())
    job = claim(store)
    store.runs.transition(job.id, JobState.PREPARING, epoch=job.epoch)
    store.runs.transition(job.id, JobState.SEARCHING, epoch=job.epoch)
    assert store.user_requests.ask(job.id, Request.PAUSE).pause_requested

    paused = store.runs.transition(job.id, JobState.PAUSED, epoch=job.epoch)

    assert not paused.pause_requested
    assert store.claims.claim_next() is None
    with pytest.raises(SupersededError):
        store.claims.renew(job.id, epoch=job.epoch)
    store.user_requests.ask(job.id, Request.RESUME)
    assert claim(store).started_at == job.started_at
    assert states_of(store, job.id) == [
        "queued",
        "validating",
        "preparing",
        "searching",
        "paused",
        "queued",
        "validating",
    ]
    assert store.events(job.id)[-1].data["resumed"] is True


def test_a_paused_job_that_is_to_stop_is_queued_for_that(
    store: Store, make_spec: MakeSpec, claim: Claim
) -> None:
    store.submissions.create_job(make_spec())
    job = claim(store)
    store.runs.transition(job.id, JobState.PAUSED, epoch=job.epoch)

    assert store.user_requests.ask(job.id, Request.STOP).state is JobState.QUEUED

    again = claim(store)
    assert again.stop_requested
    store.runs.transition(job.id, JobState.PREPARING, epoch=again.epoch)
    assert store.runs.transition(job.id, JobState.SEARCHING, epoch=again.epoch).state is JobState.STOPPING
    with pytest.raises(ConflictError, match="is stopping; it ends by itself"):
        store.user_requests.ask(job.id, Request.PAUSE)


def test_a_job_is_changed_found_by_its_new_labels_and_told(store: Store, make_spec: MakeSpec) -> None:
    job = store.submissions.create_job(make_spec("old", team="nlp"))
    changes = JobChanges(name="new", labels={"team": "speech"}, priority=3)

    changed = store.user_requests.change(job.id, changes)

    assert store.job(job.id) == changed
    assert (changed.name, changed.labels, changed.spec.priority) == ("new", {"team": "speech"}, 3)
    assert changed.spec.search == job.spec.search
    assert store.jobs(labels=["team:speech"]) == [changed]
    assert store.jobs(labels=["team:nlp"]) == []
    event = store.events(job.id)[-1]
    assert (event.type, event.data) == (EventType.JOB_CHANGED, changes.given())
    assert store.user_requests.change(job.id, changes) == changed  # nothing new
    assert store.events(job.id)[-1] == event


def test_what_has_ended_can_be_renamed(store: Store, make_spec: MakeSpec, bring: Bring) -> None:
    job = bring(store, store.submissions.create_job(make_spec()), JobState.SUCCEEDED)

    assert store.user_requests.change(job.id, JobChanges(name="kept")).name == "kept"


@ON_SQLITE
def test_actors_are_changed_until_a_job_has_ended(store: Store, make_spec: MakeSpec, bring: Bring) -> None:
    more = JobChanges(actors=7)
    for state in (state for state in JobState if state is not JobState.QUEUED):
        job = bring(store, store.submissions.create_job(make_spec()), state)
        if state.terminal:
            with pytest.raises(ConflictError, match="it needs no actors any more"):
                store.user_requests.change(job.id, more)
            continue

        changed = store.user_requests.change(job.id, more)

        assert changed.spec.resources == job.spec.resources.model_copy(update={"actors": 7})
        assert changed.epoch == job.epoch
        assert store.events(job.id)[-1].data == {"actors": 7}


def test_a_caller_who_expects_another_job_changes_nothing(store: Store, make_spec: MakeSpec) -> None:
    job = store.submissions.create_job(make_spec())

    def refuse(found: Job) -> None:
        assert found == job
        raise OutdatedError("it is another one")

    with pytest.raises(OutdatedError):
        store.user_requests.change(job.id, JobChanges(name="new"), expect=refuse)
    with pytest.raises(NotFoundError):
        store.user_requests.change(job.id, JobChanges(name="new"), "somebody else")
    assert store.job(job.id) == job


def test_a_job_is_known_by_its_key_after_a_change(store: Store, make_spec: MakeSpec) -> None:
    job = store.submissions.create_job(make_spec("as submitted"), idempotency_key="k")
    changed = store.user_requests.change(job.id, JobChanges(name="new"))

    assert store.submissions.create_job(make_spec("as submitted"), idempotency_key="k") == changed
    with pytest.raises(ConflictError):
        store.submissions.create_job(make_spec("new"), idempotency_key="k")


def test_a_submission_that_is_repeated_has_no_need_of_room(store: Store, make_spec: MakeSpec) -> None:
    job = store.submissions.create_job(make_spec("one"), idempotency_key="k", most_queued=1)

    assert store.submissions.create_job(make_spec("one"), idempotency_key="k", most_queued=1) == job
    with pytest.raises(LimitError):
        store.submissions.create_job(make_spec("two"), idempotency_key="l", most_queued=1)


def test_jobs_are_counted_by_state(store: Store, make_spec: MakeSpec, claim: Claim) -> None:
    assert store.count_jobs() == {}
    for _ in range(3):
        store.submissions.create_job(make_spec())
    claim(store)

    assert store.count_jobs() == {JobState.QUEUED: 2, JobState.VALIDATING: 1}


def test_the_databases_clock_is_close_to_ours(store: Store) -> None:
    with store.database.reading() as session:
        now = database_time(session)

    assert abs(datetime.now(UTC) - now) < timedelta(minutes=1)


def test_a_database_that_fails_is_a_failure_of_the_store(tmp_path: Path, make_spec: MakeSpec) -> None:
    store = Store(f"sqlite:///{tmp_path / 'jobs.db'}")
    with store.database.writing() as session:
        session.execute(text("DROP TABLE jobs"))

    with pytest.raises(StoreError, match=r"^the job store failed: OperationalError: no such table: jobs$"):
        store.submissions.create_job(make_spec("secret"))


def test_a_database_that_cannot_be_opened_is_named_with_what_to_do(
    tmp_path: Path, make_spec: MakeSpec
) -> None:
    file = tmp_path / "no such folder" / "jobs.db"

    with pytest.raises(StoreError) as caught:
        Store(f"sqlite:///{file}").submissions.create_job(make_spec("secret"))

    assert str(caught.value) == (
        f"the job store sqlite:///{file} cannot be opened: OperationalError: unable to open database file; let user "
        f"{os.geteuid()} write to its folder, or give another RANKSIEVE_DATA_DIR or RANKSIEVE_DATABASE_URL"
    )


def test_a_server_of_databases_that_is_not_there_is_named_without_a_password() -> None:
    with pytest.raises(StoreError) as caught:
        Store("postgresql://me:s3cret@127.0.0.1:1/jobs").open()

    message = str(caught.value)
    assert message.startswith("the job store postgresql")
    assert "me:[redacted]@127.0.0.1:1/jobs cannot be opened: OperationalError: connection" in message
    assert message.endswith("; see that it runs and lets this server in")
    assert "s3cret" not in message


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


def test_events_of_jobs_are_numbered_apart(store: Store, make_spec: MakeSpec) -> None:
    jobs = [store.submissions.create_job(make_spec()) for _ in range(2)]
    for _ in range(2):
        for job in jobs:
            store.runs.append_event(
                job.id, EventType.ACTOR_REPLACED, {"actor": 0, "reason": "it died"}, epoch=job.epoch
            )

    assert [[event.seq for event in store.events(job.id)] for job in jobs] == [[1, 2, 3]] * 2


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
    assert store.memo(job.id) == plain(store.candidates(job.id, limit=10, offset=0)) == [scored, failed]
    assert store.search_state(job.id) == {"rng": [1, 2], "next": 1}


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
    assert plain(store.candidates(job.id, limit=4, offset=2)) == [*saved[0][2:], *saved[1]]
    assert plain(store.candidates(job.id, limit=2, offset=1, generation=2)) == saved[2][1:]
    ids = [row["id"] for row in store.candidates(job.id)]
    assert ids == sorted(ids)
    assert plain(store.candidates(job.id, limit=2, after=ids[1])) == [*saved[0][2:], *saved[1][:1]]
    assert plain(store.candidates(job.id, generation=1, after=ids[3])) == saved[1][1:]
    assert store.candidates(job.id, after=ids[-1]) == []
    with pytest.raises(NotFoundError, match="no candidate"):
        store.candidates(other.id, after=ids[0])
    assert store.memo(job.id) == [*saved[0], *saved[1], *saved[2]]
    assert store.search_state(job.id) == {"next": 3}


def test_the_front_is_what_no_smaller_model_beats_on_all_search_examples(
    store: Store, make_spec: MakeSpec, make_candidate: MakeCandidate
) -> None:
    rng = Random(0)
    shares = [rng.randrange(1, 30) / 30 for _ in range(200)]
    points = [(share, round(1 - share + rng.randrange(10) / 20, 3)) for share in shares]
    rows = [
        make_candidate(0, number) | {"examples": 256, "kept_share": share, "loss_nats": loss}
        for number, (share, loss) in enumerate(points)
    ]
    rows[7] |= {"loss_nats": None, "kl_nats": points[7][1]}  # of a time before there was another loss
    screened = make_candidate(0, 900) | {"kept_share": 0.0, "loss_nats": 0.0}
    failed = make_candidate(0, 901, failure="out of memory") | {"examples": 256, "kept_share": 0.0}
    job, other = store.submissions.create_job(make_spec()), store.submissions.create_job(make_spec())
    store.runs.save_generation(job.id, {"generation": 0}, [screened, failed, *rows], {}, epoch=job.epoch)
    store.runs.save_generation(other.id, {"generation": 0}, [rows[0]], {}, epoch=other.epoch)

    expected = [
        number
        for number, (share, loss) in enumerate(points)
        if not any(
            kept <= share and lost <= loss and ((kept, lost) != (share, loss) or earlier < number)
            for earlier, (kept, lost) in enumerate(points)
        )
    ]
    front = store.front(job.id)
    assert [row["genome"] for row in front] == [[i] for i in sorted(expected, key=lambda i: points[i][0])]
    assert len(front) > 5
    assert store.front(job.id, limit=2, offset=1) == front[1:3]
    assert store.front(job.id, generation=0) == front
    assert store.front(job.id, generation=1) == []
    assert [row["genome"] for row in store.front(other.id)] == [[0]]
    assert front[0]["id"] in [row["id"] for row in store.candidates(job.id, limit=300)]


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


def test_any_text_is_kept_as_far_as_the_database_can_hold_it(
    store: Store, make_spec: MakeSpec, make_candidate: MakeCandidate
) -> None:
    job = store.submissions.create_job(make_spec("☂ \0 \U0001f400"))

    store.runs.save_generation(
        job.id, {"generation": 0}, [make_candidate(0, 1, failure="a \0 ☂")], {}, epoch=job.epoch
    )
    store.runs.append_event(job.id, EventType.CANDIDATE_FAILED, {"reason": "a \0 ☂"}, epoch=job.epoch)

    assert store.job(job.id).name == "☂ \0 \U0001f400"
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


@ON_SQLITE
def test_an_unknown_job_is_not_found(store: Store) -> None:
    for ask in (
        store.job,
        store.events,
        store.generations,
        store.candidates,
        store.memo,
        store.search_state,
        partial(store.user_requests.ask, request=Request.CANCEL),
    ):
        with pytest.raises(NotFoundError, match="there is no job 'none'"):
            ask("none")


def test_the_listener_hears_of_what_is_committed(
    store: Store, make_spec: MakeSpec, make_candidate: MakeCandidate
) -> None:
    heard: list[tuple[str, int]] = []
    store.base.listener = lambda id: heard.append((id, store.events(id)[-1].seq))

    store.submissions.create_job(make_spec())
    job = store.claims.claim_next()
    assert job is not None
    store.runs.append_event(job.id, EventType.DATA_LOADED, {"splits": {"search": 8}}, epoch=job.epoch)
    store.runs.save_generation(job.id, {"generation": 0}, [make_candidate(0, 16)], {}, epoch=job.epoch)
    store.user_requests.ask(job.id, Request.CANCEL)
    store.runs.transition(job.id, JobState.CANCELLED, epoch=job.epoch)
    with pytest.raises(ConflictError):
        store.runs.transition(job.id, JobState.FAILED, epoch=job.epoch)

    assert heard == [(job.id, seq) for seq in range(1, 6)]


def test_another_store_on_the_same_database_sees_everything(
    store: Store, store_url: str, make_spec: MakeSpec
) -> None:
    job = store.submissions.create_job(make_spec())

    other = Store(store_url)
    try:
        assert other.job(job.id) == job
    finally:
        other.close()
