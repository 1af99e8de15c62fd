"""The controller over fake pipelines; the last test kills a real process in mid-search."""

import errno
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ranksieve.service
from ranksieve.search.errors import (
    CancelledError,
    ConflictError,
    InfrastructureError,
    InputError,
    ScoringError,
    StoreError,
)
from ranksieve.service.job.changes import JobChanges
from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import Job, JobError, JobState, Request
from ranksieve.service.run.controller import Controller
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.run.run import Pipeline
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import LEASE_S, Store, mapping

MakeSpec = Callable[..., JobSpec]
WaitUntil = Callable[[Callable[[], bool]], None]
StartController = Callable[..., Controller]

SHORT_S = 0.6
"""A lease for tests that wait until it has run out."""

ON_EACH_DATABASE = pytest.mark.parametrize("make_database", ["sqlite", "postgresql"], indirect=True)

HEARD_S = 4.0
"""A lease that a busy machine does not let run out; in a sixth of it requests are heard of."""


@pytest.fixture
def start_controller(store: Store, tmp_path: Path) -> Iterator[StartController]:
    """Starts controllers, and stops whatever still runs at the end."""
    started: list[Controller] = []

    def start(pipeline: Pipeline, on: Store = store, lease_s: float = LEASE_S, **options: Any) -> Controller:
        controller = Controller(on, pipeline, tmp_path / "jobs", lease_s=lease_s, **options)
        started.append(controller)
        controller.start()
        return controller

    yield start
    for controller in started:
        controller.stop()


@pytest.fixture
def other_store(store: Store, store_url: str, wait_until: WaitUntil) -> Iterator[Store]:
    """What another server has of the same database; `wait_until` hears of its commits too."""
    other = Store(store_url)
    other.base.listener = store.base.listener
    yield other
    other.close()


def begin_search(log: JobLog) -> None:
    log.state(JobState.PREPARING)
    log.state(JobState.SEARCHING)


def succeed(job: Job, log: JobLog) -> dict[str, Any]:
    begin_search(log)
    log.state(JobState.FINALIZING)
    return {"name": job.name}


class Held:
    """A pipeline that searches until it is asked to end."""

    def __init__(self) -> None:
        self.searching = threading.Event()

    def __call__(self, job: Job, log: JobLog) -> dict[str, Any]:
        begin_search(log)
        self.searching.set()
        assert log.cancelled.wait(60)
        log.raise_if_cancelled()
        raise AssertionError("unreachable")


class Session:
    """Stands in for Ray."""

    def __init__(self) -> None:
        self.is_gone = False
        self.closed = 0

    def gone(self) -> bool:
        return self.is_gone

    def close(self) -> None:
        self.is_gone = False
        self.closed += 1


def raising(error: Exception) -> Pipeline:
    def pipeline(job: Job, log: JobLog) -> dict[str, Any]:
        raise error

    return pipeline


def test_a_job_succeeds_with_the_pipelines_result(
    store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    wait_until: WaitUntil,
    tmp_path: Path,
) -> None:
    job = store.submissions.create_job(make_spec("reviews"))
    start_controller(succeed)

    wait_until(lambda: store.job(job.id).state.terminal)

    assert store.job(job.id).state is JobState.SUCCEEDED
    assert store.job(job.id).result == {"name": "reviews"}
    assert (tmp_path / "jobs" / job.id).is_dir()


def test_jobs_run_one_after_another_oldest_first(
    store: Store, make_spec: MakeSpec, start_controller: StartController, wait_until: WaitUntil
) -> None:
    ran: list[tuple[str, str]] = []

    def pipeline(job: Job, log: JobLog) -> dict[str, Any]:
        ran.append(("start", job.name))
        result = succeed(job, log)
        ran.append(("end", job.name))
        return result

    names = ["a", "b", "c"]
    ids = [store.submissions.create_job(make_spec(name)).id for name in names]
    start_controller(pipeline)
    wait_until(lambda: store.job(ids[-1]).state.terminal)

    assert ran == [(moment, name) for name in names for moment in ("start", "end")]


def test_a_job_queued_later_runs_when_woken(
    store: Store, make_spec: MakeSpec, start_controller: StartController, wait_until: WaitUntil
) -> None:
    controller = start_controller(succeed)
    job = store.submissions.create_job(make_spec())

    controller.wake()

    wait_until(lambda: store.job(job.id).state is JobState.SUCCEEDED)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InputError("model.path", "is no folder"), ("input", "is no folder", "model.path")),
        (ScoringError("every seed failed"), ("scoring", "every seed failed", None)),
    ],
)
def test_an_error_on_purpose_fails_the_job(
    store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    wait_until: WaitUntil,
    error: Exception,
    expected: tuple[str, str, str | None],
) -> None:
    failing, next_one = store.submissions.create_job(make_spec()), store.submissions.create_job(make_spec())
    start_controller(raising(error))
    wait_until(lambda: store.job(next_one.id).state.terminal)

    failed = store.job(failing.id)
    assert failed.state is JobState.FAILED
    assert failed.error is not None
    assert (failed.error.code, failed.error.message, failed.error.field) == expected


@pytest.mark.parametrize(
    "pipeline",
    [
        raising(ZeroDivisionError("by zero")),
        raising(CancelledError("though nobody asked")),
        lambda job, log: {"too": "early"},
        lambda job, log: succeed(job, log) | {"metric": float("nan")},
    ],
    ids=["unexpected", "cancelled by nobody", "result before finalizing", "result that is not JSON"],
)
def test_a_fault_of_ours_fails_the_job_and_is_logged(
    store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    wait_until: WaitUntil,
    caplog: pytest.LogCaptureFixture,
    pipeline: Pipeline,
) -> None:
    job = store.submissions.create_job(make_spec())
    controller = start_controller(pipeline)
    wait_until(lambda: store.job(job.id).state.terminal)

    error = store.job(job.id).error
    assert error is not None
    assert (store.job(job.id).state, error.code) == (JobState.FAILED, "internal")
    record = next(record for record in caplog.records if job.id in record.getMessage())
    assert record.exc_info is not None
    assert controller.alive


def test_a_running_job_is_cancelled(
    store: Store, make_spec: MakeSpec, start_controller: StartController, wait_until: WaitUntil
) -> None:
    held = Held()
    job = store.submissions.create_job(make_spec())
    controller = start_controller(held)
    assert held.searching.wait(60)
    assert controller.running_jobs == [job.id]

    assert controller.request(job.id, Request.CANCEL).cancel_requested

    wait_until(lambda: store.job(job.id).state.terminal)
    assert store.job(job.id).state is JobState.CANCELLED
    with pytest.raises(ConflictError, match="already ended"):
        controller.request(job.id, Request.CANCEL)


def test_a_running_job_is_paused_the_next_one_runs_and_it_goes_on_when_resumed(
    store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    wait_until: WaitUntil,
) -> None:
    held, ran = Held(), []

    def pipeline(job: Job, log: JobLog) -> dict[str, Any]:
        ran.append(job.name)
        return held(job, log) if len(ran) == 1 else succeed(job, log)

    first, second = (
        store.submissions.create_job(make_spec("first")),
        store.submissions.create_job(make_spec("second")),
    )
    controller = start_controller(pipeline)
    assert held.searching.wait(60)

    assert controller.request(first.id, Request.PAUSE).pause_requested

    wait_until(lambda: store.job(second.id).state.terminal)
    paused = store.job(first.id)
    assert (paused.state, paused.pause_requested, paused.error) == (JobState.PAUSED, False, None)
    controller.request(first.id, Request.RESUME)
    wait_until(lambda: store.job(first.id).state.terminal)
    assert store.job(first.id).state is JobState.SUCCEEDED
    assert ran == ["first", "second", "first"]


def test_a_paused_job_stays_paused_when_servers_come_and_go_and_can_be_cancelled(
    store: Store, make_spec: MakeSpec, start_controller: StartController, wait_until: WaitUntil
) -> None:
    job = store.submissions.create_job(make_spec())
    held = Held()
    controller = start_controller(held)
    assert held.searching.wait(60)
    controller.request(job.id, Request.PAUSE)
    wait_until(lambda: store.job(job.id).state is JobState.PAUSED)
    controller.stop()
    next_one = store.submissions.create_job(make_spec())
    later = start_controller(succeed)

    wait_until(lambda: store.job(next_one.id).state is JobState.SUCCEEDED)
    assert store.job(job.id).state is JobState.PAUSED
    assert later.request(job.id, Request.CANCEL).state is JobState.CANCELLED


def test_a_pause_that_was_asked_of_another_server_is_heard_of(
    store: Store,
    other_store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    wait_until: WaitUntil,
) -> None:
    job = store.submissions.create_job(make_spec())
    start_controller(Held(), store, HEARD_S)
    wait_until(lambda: store.job(job.id).state is JobState.SEARCHING)
    assert other_store.user_requests.ask(job.id, Request.PAUSE).pause_requested

    wait_until(lambda: store.job(job.id).state is JobState.PAUSED)


def test_a_job_that_is_to_pause_and_is_then_cancelled_is_cancelled(
    store: Store, make_spec: MakeSpec, start_controller: StartController, wait_until: WaitUntil
) -> None:
    heard, asked = threading.Event(), threading.Event()

    def pipeline(job: Job, log: JobLog) -> dict[str, Any]:
        begin_search(log)
        assert log.cancelled.wait(60)
        heard.set()
        assert asked.wait(60)
        log.raise_if_cancelled()
        raise AssertionError("unreachable")

    job = store.submissions.create_job(make_spec())
    controller = start_controller(pipeline)
    wait_until(lambda: store.job(job.id).state is JobState.SEARCHING)
    controller.request(job.id, Request.PAUSE)
    assert heard.wait(60)
    controller.request(job.id, Request.CANCEL)
    asked.set()

    wait_until(lambda: store.job(job.id).state.ended)
    assert store.job(job.id).state is JobState.CANCELLED


def test_a_pause_called_off_while_the_run_ends_takes_the_job_up_again(
    store: Store, make_spec: MakeSpec, start_controller: StartController, wait_until: WaitUntil
) -> None:
    def pipeline(job: Job, log: JobLog) -> dict[str, Any]:
        if job.epoch > 1:
            return succeed(job, log)
        store.user_requests.ask(job.id, Request.PAUSE)
        log.update(store.job(job.id))
        store.user_requests.ask(job.id, Request.RESUME)
        log.raise_if_cancelled()
        raise AssertionError("unreachable")

    job = store.submissions.create_job(make_spec())
    start_controller(pipeline)

    wait_until(lambda: store.job(job.id).state is JobState.SUCCEEDED)
    assert store.job(job.id).faults == 0


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (Request.CANCEL, JobState.CANCELLED),
        (Request.RESUME, JobState.SUCCEEDED),
        (Request.STOP, JobState.SUCCEEDED),
    ],
)
def test_nothing_that_is_asked_while_a_pause_is_carried_out_is_lost(
    store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
    asked: Request,
    expected: JobState,
) -> None:
    def pipeline(job: Job, log: JobLog) -> dict[str, Any]:
        if job.epoch > 1:
            return succeed(job, log)
        begin_search(log)
        log.update(store.user_requests.ask(job.id, Request.PAUSE))
        log.raise_if_cancelled()
        raise AssertionError("unreachable")

    def asking(settle: Callable[..., Job]) -> Callable[..., Job]:
        def settled(id: str, *lease_s: float, epoch: int) -> Job:
            found = settle(id, *lease_s, epoch=epoch)
            store.user_requests.ask(id, asked)
            return found

        return settled

    job = store.submissions.create_job(make_spec())
    monkeypatch.setattr(store.claims, "settle", asking(store.claims.settle))
    controller = start_controller(pipeline)
    wait_until(lambda: store.job(job.id).state in (JobState.CANCELLED, JobState.QUEUED, JobState.SUCCEEDED))
    controller.wake()

    wait_until(lambda: store.job(job.id).state is expected)


def test_a_job_that_is_to_stop_goes_on_to_its_end(
    store: Store, make_spec: MakeSpec, start_controller: StartController, wait_until: WaitUntil
) -> None:
    searching = threading.Event()

    def pipeline(job: Job, log: JobLog) -> dict[str, Any]:
        begin_search(log)
        searching.set()
        assert log.stopping.wait(60)
        log.state(JobState.FINALIZING)
        return {"stopped": True}

    job = store.submissions.create_job(make_spec())
    controller = start_controller(pipeline)
    assert searching.wait(60)

    assert controller.request(job.id, Request.STOP).state is JobState.STOPPING

    wait_until(lambda: store.job(job.id).state is JobState.SUCCEEDED)
    reported = [event.data["state"] for event in store.events(job.id)]
    assert reported == [
        "queued",
        "validating",
        "preparing",
        "searching",
        "stopping",
        "finalizing",
        "succeeded",
    ]


@pytest.mark.parametrize(
    "fault",
    [
        InfrastructureError("Ray is gone"),
        OSError(errno.ENOSPC, "No space left on device", "/data/jobs"),
        ConnectionRefusedError("cluster"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        MemoryError(),
    ],
    ids=lambda fault: type(fault).__name__,
)
def test_a_fault_of_the_machine_is_told_and_tried_again_with_a_new_ray(
    store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    wait_until: WaitUntil,
    fault: Exception,
) -> None:
    session = Session()

    def pipeline(job: Job, log: JobLog) -> dict[str, Any]:
        if job.faults < 2:
            raise fault
        return succeed(job, log)

    job = store.submissions.create_job(make_spec())
    start_controller(pipeline, lease_s=SHORT_S, retry_s=0.1, session=session)
    wait_until(lambda: store.job(job.id).state is JobState.SUCCEEDED)

    waits = [event.data for event in store.events(job.id) if "retry_in_s" in event.data]
    assert [data["retry_in_s"] for data in waits] == [0.1, 0.2]
    assert {data["error"]["code"] for data in waits} == {"infrastructure"}
    assert session.closed == 2


def test_faults_without_end_crash_the_job_and_the_next_one_runs(
    store: Store, make_spec: MakeSpec, start_controller: StartController, wait_until: WaitUntil
) -> None:
    mended: list[int] = []

    def pipeline(job: Job, log: JobLog) -> dict[str, Any]:
        if job.name == "crashing" and not mended:
            raise InfrastructureError("Ray is gone")
        return succeed(job, log)

    crashing, fine = (
        store.submissions.create_job(make_spec("crashing")),
        store.submissions.create_job(make_spec("fine")),
    )
    controller = start_controller(pipeline, lease_s=SHORT_S, retry_s=0.0)
    wait_until(lambda: store.job(crashing.id).state is JobState.CRASHED)
    wait_until(lambda: store.job(fine.id).state is JobState.SUCCEEDED)
    assert store.job(crashing.id).error == JobError(code="infrastructure", message="Ray is gone")
    mended.append(1)

    controller.request(crashing.id, Request.RESUME)

    wait_until(lambda: store.job(crashing.id).state is JobState.SUCCEEDED)
    assert store.job(crashing.id).error is None


def test_a_queued_job_is_cancelled_while_another_runs(
    store: Store, make_spec: MakeSpec, start_controller: StartController
) -> None:
    held = Held()
    running, queued = store.submissions.create_job(make_spec()), store.submissions.create_job(make_spec())
    controller = start_controller(held)
    assert held.searching.wait(60)

    assert controller.request(queued.id, Request.CANCEL).state is JobState.CANCELLED
    assert store.job(running.id).state is JobState.SEARCHING


def test_what_breaks_after_a_cancel_is_still_a_cancel(
    store: Store, make_spec: MakeSpec, start_controller: StartController, wait_until: WaitUntil
) -> None:
    def pipeline(job: Job, log: JobLog) -> dict[str, Any]:
        store.user_requests.ask(job.id, Request.CANCEL)
        raise InfrastructureError("the actors are gone")

    job = store.submissions.create_job(make_spec())
    start_controller(pipeline)

    wait_until(lambda: store.job(job.id).state is JobState.CANCELLED)
    assert store.job(job.id).error is None


def test_a_job_cancelled_as_its_pipeline_returns_is_cancelled(
    store: Store, make_spec: MakeSpec, start_controller: StartController, wait_until: WaitUntil
) -> None:
    def pipeline(job: Job, log: JobLog) -> dict[str, Any]:
        result = succeed(job, log)
        store.user_requests.ask(job.id, Request.CANCEL)
        return result

    job = store.submissions.create_job(make_spec())
    start_controller(pipeline)

    wait_until(lambda: store.job(job.id).state is JobState.CANCELLED)
    assert store.job(job.id).result is None


def test_a_job_cancelled_between_claim_and_start_never_starts(
    store: Store, make_spec: MakeSpec, start_controller: StartController, wait_until: WaitUntil
) -> None:
    def cancel_once_claimed(id: str) -> None:
        if store.job(id).state is JobState.VALIDATING:
            assert controller.request(id, Request.CANCEL).state is JobState.VALIDATING
        heard(id)

    ran: list[str] = []

    def pipeline(job: Job, log: JobLog) -> dict[str, Any]:
        ran.append(job.id)
        return succeed(job, log)

    controller = start_controller(pipeline)
    assert store.base.listener is not None
    heard = store.base.listener
    job = store.submissions.create_job(make_spec())
    store.base.listener = cancel_once_claimed
    controller.wake()

    wait_until(lambda: store.job(job.id).state is JobState.CANCELLED)
    assert ran == []


def test_a_job_marked_before_the_server_died_is_cancelled_by_the_next(
    store: Store, make_spec: MakeSpec, start_controller: StartController, wait_until: WaitUntil
) -> None:
    job = store.submissions.create_job(make_spec())
    store.claims.claim_next(lease_s=0)
    store.user_requests.ask(job.id, Request.CANCEL)

    start_controller(raising(AssertionError("must not run")))

    wait_until(lambda: store.job(job.id).state is JobState.CANCELLED)


def test_what_was_asked_of_a_dead_server_s_job_needs_no_free_slot(
    store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    wait_until: WaitUntil,
) -> None:
    held = Held()
    running = store.submissions.create_job(make_spec())
    controller = start_controller(held)
    assert held.searching.wait(60)
    abandoned = store.submissions.create_job(make_spec())
    store.claims.claim_next(lease_s=0)
    assert store.job(abandoned.id).state is JobState.VALIDATING
    with store.database.writing() as session:
        mapping.find_job(session, abandoned.id).pause_requested = True

    controller.wake()

    wait_until(lambda: store.job(abandoned.id).state is JobState.PAUSED)
    assert store.job(running.id).state is JobState.SEARCHING


def test_a_server_that_slept_past_a_lease_does_not_take_over_its_own_job(
    store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held, looked, claim = Held(), threading.Semaphore(0), store.claims.claim_next

    def look(*lease_s: float, **options: Any) -> Job | None:
        found = claim(*lease_s, **options)
        looked.release()
        return found

    job = store.submissions.create_job(make_spec())
    controller = start_controller(held, running_jobs=2)
    assert held.searching.wait(60)
    epoch = store.job(job.id).epoch
    monkeypatch.setattr(store.claims, "claim_next", look)
    store.claims.renew(job.id, lease_s=-1, epoch=epoch)
    controller.wake()
    assert looked.acquire(timeout=60)

    assert (store.job(job.id).epoch, store.job(job.id).faults) == (epoch, 0)
    assert store.claims.claim_next(besides=[job.id]) is None
    taken = store.claims.claim_next()  # another server may
    assert taken is not None
    assert taken.epoch == epoch + 1


def test_stop_leaves_the_running_job_for_the_next_start(
    store: Store, make_spec: MakeSpec, start_controller: StartController, wait_until: WaitUntil
) -> None:
    held = Held()
    first, second = (
        store.submissions.create_job(make_spec("first")),
        store.submissions.create_job(make_spec("second")),
    )
    controller = start_controller(held)
    assert held.searching.wait(60)

    controller.stop()

    assert not controller.alive
    assert controller.running_jobs == []
    assert (store.job(first.id).state, store.job(first.id).cancel_requested) == (JobState.SEARCHING, False)
    assert store.job(second.id).state is JobState.QUEUED

    start_controller(succeed)
    wait_until(lambda: store.job(second.id).state.terminal)
    assert store.job(first.id).state is JobState.SUCCEEDED
    resumed = [event.seq for event in store.events(first.id) if event.data.get("resumed")]
    assert len(resumed) == 1


class Places:
    """A pipeline that holds every job in its search until it is let go; the job's name is its key."""

    def __init__(self, *names: str) -> None:
        self.searching = {name: threading.Event() for name in names}
        self.go = {name: threading.Event() for name in names}
        self.faults: dict[str, list[Exception]] = {name: [] for name in names}

    def __call__(self, job: Job, log: JobLog) -> dict[str, Any]:
        begin_search(log)
        self.searching[job.name].set()
        while not self.go[job.name].wait(0.005):
            log.raise_if_cancelled()
        if self.faults[job.name]:
            raise self.faults[job.name].pop()
        log.state(JobState.FINALIZING)
        return {}

    def reach(self, *names: str) -> None:
        """Waits until these jobs search, anew."""
        for name in names:
            assert self.searching[name].wait(60), name
            self.searching[name].clear()

    def end(self, name: str, error: Exception | None = None) -> None:
        """Ends a job, by an error if one is given; another run of it ends by itself."""
        self.faults[name] += [] if error is None else [error]
        self.go[name].set()


Submit = Callable[..., dict[str, str]]


@pytest.fixture
def submit(store: Store, make_spec: MakeSpec) -> Submit:
    """Queues jobs by name, with priorities; returns their ids by name."""

    def submit(*names: str, **priorities: int) -> dict[str, str]:
        specs = {
            name: make_spec(name).model_copy(update={"priority": priorities.get(name, 0)})
            for name in (*names, *priorities)
        }
        return {name: store.submissions.create_job(spec).id for name, spec in specs.items()}

    return submit


def test_so_many_jobs_run_at_once_of_the_highest_priority_and_then_the_oldest(
    store: Store, submit: Submit, start_controller: StartController, wait_until: WaitUntil
) -> None:
    places = Places("old", "young", "first")
    ids = submit("old", "young", first=5)
    controller = start_controller(places, running_jobs=2)

    places.reach("first", "old")
    assert controller.running_jobs == [ids["first"], ids["old"]]
    assert store.job(ids["young"]).state is JobState.QUEUED
    places.end("old")
    places.reach("young")
    assert controller.running_jobs == [ids["first"], ids["young"]]
    for name in ("young", "first"):
        places.end(name)
        wait_until(lambda name=name: store.job(ids[name]).state is JobState.SUCCEEDED)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("error", "state"),
    [(InputError("model.path", "is no folder"), JobState.FAILED), (ZeroDivisionError(), JobState.FAILED)],
    ids=["the user's", "ours"],
)
def test_the_failure_of_one_job_is_nothing_to_the_other(
    store: Store,
    submit: Submit,
    start_controller: StartController,
    wait_until: WaitUntil,
    error: Exception,
    state: JobState,
) -> None:
    places = Places("bad", "good")
    ids = submit("bad", "good")
    controller = start_controller(places, running_jobs=2)
    places.reach("bad", "good")

    places.end("bad", error)
    wait_until(lambda: store.job(ids["bad"]).state is state)

    assert controller.alive
    places.end("good")
    wait_until(lambda: store.job(ids["good"]).state is JobState.SUCCEEDED)
    assert len([e for e in store.events(ids["good"]) if e.data["state"] == "validating"]) == 1


def test_a_fault_of_one_job_leaves_the_others_on_a_ray_that_answers(
    store: Store, submit: Submit, start_controller: StartController, wait_until: WaitUntil
) -> None:
    places, session = Places("full", "good"), Session()
    ids = submit("full", "good")
    start_controller(places, running_jobs=2, session=session, retry_s=0.0)
    places.reach("full", "good")

    places.end("full", OSError(errno.ENOSPC, "No space left on device"))
    wait_until(lambda: store.job(ids["full"]).state is JobState.SUCCEEDED)

    assert store.job(ids["full"]).faults == 1
    assert store.job(ids["good"]).state is JobState.SEARCHING
    assert session.closed == 0
    places.end("good")
    wait_until(lambda: store.job(ids["good"]).state is JobState.SUCCEEDED)
    assert store.job(ids["good"]).faults == 0


def test_a_ray_that_is_gone_puts_all_its_jobs_back_and_they_go_on_with_a_new_one(
    store: Store, submit: Submit, start_controller: StartController, wait_until: WaitUntil
) -> None:
    places, session = Places("one", "other"), Session()
    ids = submit("one", "other")
    start_controller(places, running_jobs=2, session=session, retry_s=0.0)
    places.reach("one", "other")

    session.is_gone = True
    places.end("one", InfrastructureError("Ray is gone"))
    places.reach("one", "other")
    places.end("other")
    wait_until(lambda: all(store.job(id).state is JobState.SUCCEEDED for id in ids.values()))

    assert session.closed == 1
    for id in ids.values():
        reported = [event.data["error"]["message"] for event in store.events(id) if "error" in event.data]
        assert reported == ["Ray is gone"]


def test_a_job_is_paused_resumed_and_cancelled_beside_another(
    store: Store, submit: Submit, start_controller: StartController, wait_until: WaitUntil
) -> None:
    places = Places("one", "other", "next")
    ids = submit("one", "other", "next")
    controller = start_controller(places, running_jobs=2)
    places.reach("one", "other")

    controller.request(ids["one"], Request.PAUSE)
    places.reach("next")
    assert store.job(ids["one"]).state is JobState.PAUSED
    controller.request(ids["one"], Request.RESUME)
    assert store.job(ids["one"]).state is JobState.QUEUED  # there is no place
    controller.request(ids["next"], Request.CANCEL)
    places.reach("one")
    assert store.job(ids["next"]).state is JobState.CANCELLED
    assert store.job(ids["other"]).state is JobState.SEARCHING
    assert controller.running_jobs == [ids["other"], ids["one"]]


@ON_EACH_DATABASE
def test_all_running_jobs_end_with_the_server_and_go_on_with_the_next(
    store: Store, submit: Submit, start_controller: StartController, wait_until: WaitUntil
) -> None:
    places = Places("one", "other")
    ids = submit("one", "other")
    controller = start_controller(places, running_jobs=2)
    places.reach("one", "other")

    controller.stop()

    assert controller.running_jobs == []
    assert {store.job(id).state for id in ids.values()} == {JobState.SEARCHING}
    start_controller(succeed, running_jobs=2)
    wait_until(lambda: all(store.job(id).state is JobState.SUCCEEDED for id in ids.values()))
    assert {store.job(id).faults for id in ids.values()} == {0}


def test_a_job_that_was_taken_from_its_run_starts_again_when_that_has_ended(
    store: Store, submit: Submit, start_controller: StartController, wait_until: WaitUntil
) -> None:
    places = Places("taken", "other")
    leave, ended, runs = threading.Event(), threading.Event(), []

    def pipeline(job: Job, log: JobLog) -> dict[str, Any]:
        if job.name == "taken":
            runs.append(ended.is_set())
        try:
            return places(job, log)
        finally:
            if job.name == "taken" and len(runs) == 1:
                assert leave.wait(60)
                ended.set()

    ids = submit("taken", "other")
    controller = start_controller(pipeline, running_jobs=3)
    places.reach("taken", "other")

    with store.database.writing() as session:
        row = mapping.find_job(session, ids["taken"])
        row.epoch, row.leased_until = row.epoch + 1, None
    controller.change(ids["taken"], JobChanges(priority=1))
    wait_until(lambda: store.job(ids["taken"]).epoch == 3)  # claimed again
    while len(controller.running_jobs) < 3:  # its run is listed a moment after the claim
        time.sleep(0.01)
    assert controller.running_jobs == [ids["taken"], ids["other"], ids["taken"]]
    leave.set()
    places.reach("taken")

    assert runs == [False, True]
    for name in ids:
        places.end(name)
        wait_until(lambda name=name: store.job(ids[name]).state is JobState.SUCCEEDED)  # type: ignore[misc]


def test_what_breaks_while_stopping_does_not_fail_the_job(
    store: Store, make_spec: MakeSpec, start_controller: StartController
) -> None:
    searching = threading.Event()

    def pipeline(job: Job, log: JobLog) -> dict[str, Any]:
        searching.set()
        assert log.cancelled.wait(60)
        raise InfrastructureError("the actors are gone")

    job = store.submissions.create_job(make_spec())
    controller = start_controller(pipeline)
    assert searching.wait(60)

    controller.stop()

    assert store.job(job.id).state is JobState.VALIDATING


def test_a_stopped_controller_starts_again(
    store: Store, make_spec: MakeSpec, start_controller: StartController, wait_until: WaitUntil
) -> None:
    controller = start_controller(succeed)
    controller.stop()
    job = store.submissions.create_job(make_spec())

    controller.start()

    wait_until(lambda: store.job(job.id).state is JobState.SUCCEEDED)


def test_a_store_that_fails_ends_the_controller_visibly(
    store: Store,
    start_controller: StartController,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(_lease_s: float, *, besides: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(store.claims, "claim_next", fail)
    controller = start_controller(succeed)
    assert controller._thread is not None
    controller._thread.join(10)

    assert not controller.alive
    assert controller.failed
    assert "the controller ended unexpectedly; restart the server to continue" in caplog.text
    assert caplog.records[-1].levelno == logging.ERROR


@ON_EACH_DATABASE
def test_two_servers_share_the_jobs_and_run_each_once(
    store: Store,
    other_store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    wait_until: WaitUntil,
) -> None:
    ran: list[str] = []
    both_run = threading.Barrier(2)

    def pipeline(job: Job, log: JobLog) -> dict[str, Any]:
        if job.id in ids[:2]:
            both_run.wait(60)
        ran.append(job.id)
        return succeed(job, log)

    ids = [store.submissions.create_job(make_spec()).id for _ in range(6)]
    for on in (store, other_store):
        start_controller(pipeline, on)
    wait_until(lambda: all(store.job(id).state.terminal for id in ids))

    assert sorted(ran) == ids
    assert {store.job(id).epoch for id in ids} == {1}


@ON_EACH_DATABASE
def test_a_server_that_is_silent_too_long_loses_its_job_and_cannot_harm_it(
    store: Store,
    other_store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard_again = threading.Event()
    renew = other_store.claims.renew

    def silent(*arguments: Any, **options: Any) -> Job:
        if not heard_again.is_set():
            raise StoreError("the network is gone")
        return renew(*arguments, **options)

    monkeypatch.setattr(other_store.claims, "renew", silent)
    ended = threading.Event()
    reported: list[bool] = []
    held = Held()

    def stubborn(job: Job, log: JobLog) -> dict[str, Any]:
        try:
            return held(job, log)
        finally:
            reported.append(log.cancelled.is_set())
            ended.set()

    job = store.submissions.create_job(make_spec())
    former = start_controller(stubborn, other_store, SHORT_S)
    assert held.searching.wait(60)
    start_controller(succeed, store, SHORT_S)
    wait_until(lambda: store.job(job.id).state.terminal)
    assert not ended.is_set()
    heard_again.set()

    assert ended.wait(60)
    assert reported == [True]
    former.stop()
    assert "this run ends" in caplog.text
    states = [event.data["state"] for event in store.events(job.id)]
    assert states == [
        "queued",
        "validating",
        "preparing",
        "searching",
        "validating",
        "preparing",
        "searching",
        "finalizing",
        "succeeded",
    ]
    assert store.job(job.id).result == {"name": job.name}


def test_a_job_is_cancelled_by_way_of_another_server(
    store: Store,
    other_store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    wait_until: WaitUntil,
) -> None:
    held = Held()
    job = store.submissions.create_job(make_spec())
    start_controller(held, store, SHORT_S)
    assert held.searching.wait(60)

    other_store.user_requests.ask(job.id, Request.CANCEL)

    wait_until(lambda: store.job(job.id).state is JobState.CANCELLED)


def test_a_database_that_was_away_is_used_again(
    store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claim, asked = store.claims.claim_next, threading.Event()
    back = threading.Event()

    def away(lease_s: float, **options: Any) -> Job | None:
        asked.set()
        if not back.is_set():
            raise StoreError("connection refused")
        return claim(lease_s, **options)

    monkeypatch.setattr(store.claims, "claim_next", away)
    job = store.submissions.create_job(make_spec())
    controller = start_controller(succeed, lease_s=SHORT_S)
    assert asked.wait(60)
    back.set()

    wait_until(lambda: store.job(job.id).state is JobState.SUCCEEDED)
    controller.stop()
    assert controller.trouble is None


def test_a_restart_of_the_database_does_not_end_a_job(
    postgres: Any, make_spec: MakeSpec, tmp_path: Path
) -> None:
    store = Store(postgres.create())
    ended = threading.Event()

    def pipeline(job: Job, log: JobLog) -> dict[str, Any]:
        begin_search(log)
        postgres.restart()
        log.generation({"generation": 0}, [], {"next": 1})
        log.state(JobState.FINALIZING)
        return {}

    def notify(id: str) -> None:
        if store.job(id).state.terminal:
            ended.set()

    store.base.listener = notify
    job = store.submissions.create_job(make_spec())
    controller = Controller(store, pipeline, tmp_path / "jobs", lease_s=SHORT_S)
    controller.start()
    assert ended.wait(30)
    controller.stop()

    assert store.job(job.id).state is JobState.SUCCEEDED
    assert store.search_state(job.id) == {"next": 1}
    store.close()


def test_a_job_whose_writes_the_database_refused_is_taken_up_again(
    store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transition, refusals = store.runs.transition, [StoreError("disk full")]

    def full(*arguments: Any, **options: Any) -> Job:
        if refusals:
            raise refusals.pop()
        return transition(*arguments, **options)

    monkeypatch.setattr(store.runs, "transition", full)
    job = store.submissions.create_job(make_spec())
    start_controller(succeed, lease_s=SHORT_S, retry_s=0.1)

    wait_until(lambda: store.job(job.id).state is JobState.SUCCEEDED)
    [reported] = [event.data["error"] for event in store.events(job.id) if "retry_in_s" in event.data]
    assert reported == {"code": "infrastructure", "message": "disk full"}


def test_a_write_that_was_made_though_the_database_did_not_answer_is_not_made_again(
    store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    transition, losses = store.runs.transition, [StoreError("the server hung up")]

    def lossy(id: str, to: JobState, **options: Any) -> Job:
        job = transition(id, to, **options)
        if to is JobState.SUCCEEDED and losses:
            raise losses.pop()
        return job

    monkeypatch.setattr(store.runs, "transition", lossy)
    ended, next_one = store.submissions.create_job(make_spec()), store.submissions.create_job(make_spec())
    controller = start_controller(succeed, lease_s=SHORT_S)
    wait_until(lambda: store.job(next_one.id).state is JobState.SUCCEEDED)

    assert controller.alive
    assert store.job(ended.id).state is JobState.SUCCEEDED
    assert "another server has it now" in caplog.text


CHILD = """
import sys
from pathlib import Path

from ranksieve.service.run.controller import Controller
from ranksieve.service.job.job import JobState
from ranksieve.service.store import Store


def search_slowly(job, log):
    try:
        search(log)
    finally:
        print("ended", flush=True)


def search(log):
    log.state(JobState.PREPARING)
    log.state(JobState.SEARCHING)
    for number in range(1000):
        candidate = {
            "generation": number, "examples": 64, "genome": [number, -1], "ranks": [number, 3],
            "kept_share": 0.4, "kl_nats": 0.1, "loss_nats": 0.1, "drop_points": 1.0, "drop_bound": 1.5, "metric": 0.8,
            "tokens": 10, "seconds": 0.1, "failure": None,
        }
        log.generation({"generation": number}, [candidate], {"next": number + 1})
        print(number, flush=True)
        log.cancelled.wait(0.02)


url, jobs_dir, lease_s = sys.argv[1:]
controller = Controller(Store(url), search_slowly, Path(jobs_dir), lease_s=float(lease_s))
controller.start()
sys.stdin.read()
"""


@pytest.fixture
def child(store_url: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A server of its own that prints the generations it saves, and `ended`; killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, store_url, str(tmp_path / "jobs"), str(SHORT_S)],
        cwd=Path(ranksieve.service.__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        yield child
        child.kill()


@pytest.mark.parametrize(
    "make_database", ["postgresql"], indirect=True
)  # one server at a time has a SQLite file
def test_a_server_that_was_stopped_past_its_lease_ends_without_a_trace(
    store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    wait_until: WaitUntil,
    child: subprocess.Popen[str],
) -> None:
    job = store.submissions.create_job(make_spec())
    assert child.stdout is not None
    lines = iter(child.stdout)
    while int(next(lines)) < 3:
        pass
    child.send_signal(signal.SIGSTOP)
    start_controller(succeed, lease_s=SHORT_S)
    wait_until(lambda: store.job(job.id).state.terminal)
    events, memo = store.events(job.id), store.memo(job.id)
    child.send_signal(signal.SIGCONT)

    assert "ended\n" in lines
    assert events[-1].data["state"] == "succeeded"
    assert store.events(job.id) == events
    assert store.memo(job.id) == memo


@ON_EACH_DATABASE
def test_a_killed_server_loses_nothing(
    store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    wait_until: WaitUntil,
    child: subprocess.Popen[str],
) -> None:
    killed, queued = (
        store.submissions.create_job(make_spec("killed")),
        store.submissions.create_job(make_spec("queued")),
    )
    assert child.stdout is not None
    lines = iter(child.stdout)
    while int(next(lines)) < 5:
        pass
    child.kill()
    last_reported = max([5, *(int(line) for line in lines)])
    assert child.wait() == -signal.SIGKILL

    state = store.search_state(killed.id)
    assert state is not None
    assert state["next"] > last_reported
    saved = list(range(state["next"]))
    assert [record["generation"] for record in store.generations(killed.id)] == saved
    assert [candidate["genome"] for candidate in store.memo(killed.id)] == [[number, -1] for number in saved]
    completed = [
        event.data["generation"]
        for event in store.events(killed.id)
        if event.type is EventType.GENERATION_COMPLETED
    ]
    assert completed == saved

    found: dict[str, Any] = {}

    def go_on(job: Job, log: JobLog) -> dict[str, Any]:
        found[job.id] = log.search_state()
        return succeed(job, log)

    start_controller(go_on, lease_s=SHORT_S)
    wait_until(lambda: store.job(killed.id).state.terminal and store.job(queued.id).state.terminal)
    assert found == {killed.id: state, queued.id: None}
