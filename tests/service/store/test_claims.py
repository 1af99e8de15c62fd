"""Who gets a job to run, keeps it and loses it."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from databases import ON_EACH

from ranksieve.search.errors import SupersededError
from ranksieve.service.job.changes import JobChanges
from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import Job, JobError, JobState, Request
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import FAULTS, Store

MakeSpec = Callable[..., JobSpec]
Advance = Callable[[float], None]
Bring = Callable[[Store, Job, JobState], Job]
Claim = Callable[..., Job]

FULL = JobError(code="infrastructure", message="the disk is full")


@ON_EACH
def test_the_highest_priority_goes_first_and_then_what_was_cut_off_and_then_the_oldest(
    store: Store, make_spec: MakeSpec, claim: Claim
) -> None:
    low, first, second, cut_off, high = (store.submissions.create_job(make_spec()).id for _ in range(5))
    for id, priority in ((low, -1), (high, 7)):
        store.user_requests.change(id, JobChanges(priority=priority))
    store.runs.transition(cut_off, JobState.VALIDATING, epoch=0)

    assert [claim(store).id for _ in range(5)] == [high, cut_off, first, second, low]
    assert store.events(first)[-1].data == {"state": "validating"}
    assert store.events(cut_off)[-1].data == {"state": "validating", "resumed": True}


def test_a_fault_of_the_machine_puts_a_job_back_for_longer_every_time_and_crashes_it_at_last(
    timed: Store, advance: Advance, make_spec: MakeSpec, claim: Claim
) -> None:
    id = timed.submissions.create_job(make_spec()).id
    for wait_s in (10, 20, 40, 80, 160):
        waiting = timed.claims.put_back(id, FULL, epoch=claim(timed).epoch)
        assert (waiting.state, waiting.error) == (JobState.QUEUED, None)
        reported = {"state": "queued", "error": FULL.as_json(), "retry_in_s": wait_s}
        assert timed.events(id)[-1].data == reported
        advance(wait_s - 0.1)
        assert timed.claims.claim_next() is None
        advance(0.1)

    crashed = timed.claims.put_back(id, FULL, epoch=claim(timed).epoch)

    assert (crashed.state, crashed.error) == (JobState.CRASHED, FULL)
    assert crashed.finished_at is not None
    assert timed.claims.claim_next() is None
    resumed = timed.user_requests.ask(id, Request.RESUME)
    assert (resumed.error, resumed.finished_at, resumed.faults) == (None, None, 0)
    assert claim(timed).id == id


MARKS = [(Request.CANCEL, JobState.CANCELLED), (Request.PAUSE, JobState.PAUSED)]


@pytest.mark.parametrize("faults", [1, FAULTS])
@pytest.mark.parametrize(("request_", "expected"), MARKS)
def test_a_fault_of_the_machine_does_what_is_asked_of_the_job(
    timed: Store,
    advance: Advance,
    make_spec: MakeSpec,
    claim: Claim,
    faults: int,
    request_: Request,
    expected: JobState,
) -> None:
    id = timed.submissions.create_job(make_spec()).id
    for _ in range(faults - 1):
        timed.claims.put_back(id, FULL, epoch=claim(timed).epoch)
        advance(1000)
    holder = claim(timed)
    timed.user_requests.ask(id, request_)

    settled = timed.claims.put_back(id, FULL, epoch=holder.epoch)

    assert (settled.state, settled.pause_requested, settled.error) == (expected, False, None)
    assert (settled.finished_at is not None) == (expected is JobState.CANCELLED)
    assert timed.claims.claim_next() is None


def test_a_job_that_is_to_be_cancelled_ends_with_its_server(
    timed: Store, advance: Advance, make_spec: MakeSpec, claim: Claim
) -> None:
    dropped, next_one = (timed.submissions.create_job(make_spec()).id for _ in range(2))
    former = claim(timed)
    timed.user_requests.ask(dropped, Request.CANCEL)
    advance(10)

    assert claim(timed).id == next_one

    assert timed.job(dropped).state is JobState.CANCELLED
    with pytest.raises(SupersededError):
        timed.claims.renew(dropped, epoch=former.epoch)


@pytest.mark.parametrize(("request_", "expected"), MARKS)
@ON_EACH
def test_what_was_asked_of_a_job_whose_server_fell_silent_is_done_without_another_server_s_room_for_it(
    timed: Store, advance: Advance, make_spec: MakeSpec, claim: Claim, request_: Request, expected: JobState
) -> None:
    abandoned, slept, running, queued = (timed.submissions.create_job(make_spec()).id for _ in range(4))
    holder = claim(timed)
    claim(timed)
    for id in (abandoned, slept):
        timed.user_requests.ask(id, request_)
    timed.claims.settle_abandoned()
    assert timed.job(abandoned).state is JobState.VALIDATING
    advance(31)
    claim_of_running = timed.claims.claim_next(besides=[abandoned, slept])
    assert claim_of_running is not None
    reported: list[str] = []
    timed.base.listener = reported.append

    timed.claims.settle_abandoned(besides=[slept])

    states = [timed.job(id).state for id in (abandoned, slept, running, queued)]
    assert states == [expected, JobState.VALIDATING, JobState.VALIDATING, JobState.QUEUED]
    assert reported == [abandoned]
    with pytest.raises(SupersededError):
        timed.claims.renew(abandoned, epoch=holder.epoch)


@pytest.mark.parametrize(("request_", "expected"), MARKS)
def test_a_run_that_is_over_settles_what_was_asked_of_its_job(
    timed: Store, make_spec: MakeSpec, claim: Claim, request_: Request, expected: JobState
) -> None:
    id = timed.submissions.create_job(make_spec()).id
    holder = claim(timed)
    assert timed.claims.settle(id, epoch=holder.epoch).state is JobState.VALIDATING
    timed.user_requests.ask(id, request_)

    settled = timed.claims.settle(id, epoch=holder.epoch)

    assert (settled.state, settled.pause_requested) == (expected, False)
    with pytest.raises(SupersededError):
        timed.claims.settle(id, epoch=holder.epoch)


def test_a_run_whose_job_has_ended_settles_nothing(timed: Store, make_spec: MakeSpec, claim: Claim) -> None:
    timed.submissions.create_job(make_spec())
    job = claim(timed)
    timed.user_requests.ask(job.id, Request.PAUSE)
    timed.runs.transition(job.id, JobState.FAILED, epoch=job.epoch)

    assert timed.claims.settle(job.id, epoch=job.epoch).state is JobState.FAILED


def test_a_saved_generation_makes_up_for_faults(
    timed: Store, advance: Advance, make_spec: MakeSpec, claim: Claim
) -> None:
    id = timed.submissions.create_job(make_spec()).id
    for generation in range(2 * FAULTS):
        advance(1000)
        job = claim(timed)
        timed.runs.save_generation(id, {"generation": generation}, [], {}, epoch=job.epoch)
        assert timed.claims.put_back(id, FULL, epoch=job.epoch).faults == 1


@pytest.mark.parametrize("alone", [False, True])
def test_a_job_that_kills_every_server_crashes(
    timed: Store, advance: Advance, make_spec: MakeSpec, alone: bool, claim: Claim
) -> None:
    id, next_one = (timed.submissions.create_job(make_spec()).id for _ in range(2))
    for _ in range(FAULTS):
        assert claim(timed).id == id
        if alone:
            timed.claims.release_all()  # the next server on this SQLite file starts
        advance(11)

    assert claim(timed).id == next_one
    crashed = timed.job(id)
    assert crashed.state is JobState.CRASHED
    assert crashed.error is not None
    assert "died or fell silent 6 times in a row" in crashed.error.message


def test_a_server_that_stops_is_no_fault(timed: Store, make_spec: MakeSpec, claim: Claim) -> None:
    timed.submissions.create_job(make_spec())
    for _ in range(2 * FAULTS):
        job = claim(timed)
        timed.claims.release(job.id, epoch=job.epoch)
    assert timed.job(job.id).faults == 0


def test_an_interrupted_job_is_claimed_first(store: Store, make_spec: MakeSpec, bring: Bring) -> None:
    store.submissions.create_job(make_spec("older"))
    for state in (state for state in JobState if state.interruptible):
        interrupted = bring(store, store.submissions.create_job(make_spec("newer")), state)

        claimed = store.claims.claim_next()

        assert claimed is not None
        assert (claimed.id, claimed.state) == (interrupted.id, JobState.VALIDATING)
        assert claimed.started_at == interrupted.started_at
        assert store.events(claimed.id)[-1].data == {"state": "validating", "resumed": True}


@ON_EACH
def test_a_leased_job_is_nobody_elses_until_the_lease_runs_out(
    timed: Store, advance: Advance, make_spec: MakeSpec, claim: Claim
) -> None:
    timed.submissions.create_job(make_spec())
    job = claim(timed)

    advance(9.9)
    assert timed.claims.claim_next() is None
    timed.claims.renew(job.id, 10, epoch=job.epoch)
    advance(9.9)
    assert timed.claims.claim_next() is None
    advance(0.1)

    assert claim(timed).epoch == job.epoch + 1


HOLDERS_WRITES: list[Callable[[Store, Job], object]] = [
    lambda store, job: store.runs.transition(job.id, JobState.PREPARING, epoch=job.epoch),
    lambda store, job: store.runs.transition(job.id, JobState.FAILED, epoch=job.epoch),
    lambda store, job: store.runs.append_event(job.id, EventType.DATA_LOADED, {}, epoch=job.epoch),
    lambda store, job: store.runs.save_generation(job.id, {"generation": 0}, [], {}, epoch=job.epoch),
    lambda store, job: store.claims.renew(job.id, epoch=job.epoch),
    lambda store, job: store.claims.release(job.id, epoch=job.epoch),
]


@ON_EACH
def test_whatever_a_former_holder_writes_is_refused(
    timed: Store, advance: Advance, make_spec: MakeSpec, claim: Claim
) -> None:
    for write in HOLDERS_WRITES:
        timed.submissions.create_job(make_spec())
        former = claim(timed)
        advance(10)
        holder = claim(timed)
        before = timed.events(holder.id)

        with pytest.raises(
            SupersededError, match=f"at epoch {holder.epoch}, its former holder's is {former.epoch}"
        ):
            write(timed, former)

        assert timed.job(holder.id) == holder
        assert timed.events(holder.id) == before
        write(timed, holder)
        if not timed.job(holder.id).state.terminal:
            timed.runs.transition(holder.id, JobState.FAILED, epoch=timed.job(holder.id).epoch)


def test_a_silent_holder_goes_on_as_long_as_nobody_took_over(
    timed: Store, advance: Advance, make_spec: MakeSpec, claim: Claim
) -> None:
    timed.submissions.create_job(make_spec())
    job = claim(timed)
    advance(100)

    timed.runs.append_event(job.id, EventType.DATA_LOADED, {}, epoch=job.epoch)
    timed.claims.renew(job.id, 10, epoch=job.epoch)

    assert timed.claims.claim_next() is None


def test_a_renewal_tells_the_holder_what_its_user_wants(
    timed: Store, make_spec: MakeSpec, claim: Claim
) -> None:
    timed.submissions.create_job(make_spec())
    job = claim(timed)

    assert not timed.claims.renew(job.id, epoch=job.epoch).cancel_requested
    timed.user_requests.ask(job.id, Request.CANCEL)
    assert timed.claims.renew(job.id, epoch=job.epoch).cancel_requested


def test_a_job_given_up_is_claimed_at_once_and_no_longer_its_former_holders(
    timed: Store, make_spec: MakeSpec, claim: Claim
) -> None:
    timed.submissions.create_job(make_spec())
    job = claim(timed)

    timed.claims.release(job.id, epoch=job.epoch)

    with pytest.raises(SupersededError):
        timed.runs.append_event(job.id, EventType.DATA_LOADED, {}, epoch=job.epoch)
    assert claim(timed).id == job.id


@ON_EACH
def test_a_server_that_is_the_only_one_ends_every_lease(
    timed: Store, make_spec: MakeSpec, claim: Claim
) -> None:
    ids = [timed.submissions.create_job(make_spec()).id for _ in range(3)]
    former, _ = claim(timed), claim(timed)

    timed.claims.release_all()

    with pytest.raises(SupersededError):
        timed.claims.renew(former.id, epoch=former.epoch)
    assert [claim(timed).id for _ in ids] == ids


def test_a_job_that_has_ended_has_no_lease(
    timed: Store, advance: Advance, make_spec: MakeSpec, claim: Claim
) -> None:
    timed.submissions.create_job(make_spec())
    job = claim(timed)
    timed.runs.transition(job.id, JobState.FAILED, epoch=job.epoch)

    assert timed.claims.renew(job.id, epoch=job.epoch).state is JobState.FAILED
    advance(1000)
    assert timed.claims.claim_next() is None


@ON_EACH
def test_stores_that_claim_at_once_get_a_job_each(
    store: Store, store_url: str, make_spec: MakeSpec, claim: Claim
) -> None:
    ids = {store.submissions.create_job(make_spec()).id for _ in range(12)}
    stores = [Store(store_url) for _ in range(4)]

    def claim_three(store: Store) -> list[str]:
        return [claim(store).id for _ in range(3)]

    try:
        with ThreadPoolExecutor(len(stores)) as pool:
            claimed = [id for found in pool.map(claim_three, stores) for id in found]
    finally:
        for other in stores:
            other.close()

    assert len(claimed) == len(set(claimed))
    assert set(claimed) == ids


@ON_EACH
def test_a_claim_and_a_cancel_at_once_know_of_each_other(store: Store, make_spec: MakeSpec) -> None:
    for _ in range(5):
        job = store.submissions.create_job(make_spec())
        together = threading.Barrier(2)

        def cancel(job: Job = job, together: threading.Barrier = together) -> Job:
            together.wait()
            return store.user_requests.ask(job.id, Request.CANCEL)

        with ThreadPoolExecutor(1) as pool:
            cancelling = pool.submit(cancel)
            together.wait()
            claimed = store.claims.claim_next()

        expected = JobState.CANCELLED if claimed is None else JobState.VALIDATING
        assert cancelling.result().state is expected
        assert store.job(job.id).cancel_requested
        if claimed is not None:
            store.runs.transition(job.id, JobState.CANCELLED, epoch=claimed.epoch)


def test_a_former_holder_is_told_that_it_was_superseded_even_if_the_job_is_deleted(
    store: Store, make_spec: MakeSpec
) -> None:
    store.submissions.create_job(make_spec())
    former, holder = store.claims.claim_next(lease_s=0), store.claims.claim_next()
    assert former is not None
    assert holder is not None
    store.runs.transition(holder.id, JobState.FAILED, epoch=holder.epoch)
    store.submissions.delete_job(holder.id)
    with pytest.raises(SupersededError, match="deleted"):
        store.runs.append_event(former.id, EventType.PHASE_PROGRESS, {}, epoch=former.epoch)
    with pytest.raises(SupersededError, match="deleted"):
        store.claims.renew(former.id, epoch=former.epoch)
