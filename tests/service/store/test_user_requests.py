"""What users ask of jobs, and change of them."""

from collections.abc import Callable

import pytest
from databases import ON_EACH

from ranksieve.search.errors import ConflictError, NotFoundError, SupersededError
from ranksieve.service.job.changes import JobChanges
from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import Job, JobState, Request
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import LEASE_S, Store

MakeSpec = Callable[..., JobSpec]
Advance = Callable[[float], None]
Bring = Callable[[Store, Job, JobState], Job]
Claim = Callable[..., Job]
StatesOf = Callable[[Store, str], list[str]]


def held(store: Store, job: Job) -> Job:
    """A job in a state, held by a runner where the state implies one."""
    return store.claims.renew(job.id, epoch=job.epoch) if job.state.interruptible else job


def test_a_job_that_is_to_be_cancelled_does_not_succeed(
    store: Store, make_spec: MakeSpec, bring: Bring
) -> None:
    job = held(store, bring(store, store.submissions.create_job(make_spec()), JobState.FINALIZING))
    store.user_requests.ask(job.id, Request.CANCEL)

    with pytest.raises(ConflictError, match="asked to cancel"):
        store.runs.transition(job.id, JobState.SUCCEEDED, result={}, epoch=job.epoch)

    assert store.job(job.id).result is None


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
    states_of: StatesOf,
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
    store: Store, make_spec: MakeSpec, claim: Claim, states_of: StatesOf
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


@ON_EACH
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


def test_nobody_else_changes_a_job(store: Store, make_spec: MakeSpec) -> None:
    job = store.submissions.create_job(make_spec())

    with pytest.raises(NotFoundError):
        store.user_requests.change(job.id, JobChanges(name="new"), "somebody else")
    assert store.job(job.id) == job
