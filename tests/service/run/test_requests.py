"""What users ask of jobs, at every moment of a run."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from fake_pipelines import Held, begin_search, raising, succeed

from ranksieve.search.errors import InfrastructureError
from ranksieve.service.job.job import Job, JobState, Request
from ranksieve.service.run.controller import Controller
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store, mapping

MakeSpec = Callable[..., JobSpec]
WaitUntil = Callable[[Callable[[], bool]], None]
StartController = Callable[..., Controller]


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
