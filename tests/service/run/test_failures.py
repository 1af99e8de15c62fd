"""Failures of the machine, of Ray and of the database under running jobs."""

import errno
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_pipelines import SHORT_S, Places, Session, begin_search, succeed

from ranksieve.search.errors import InfrastructureError, NoRoomError, StoreError
from ranksieve.service.job.job import Job, JobError, JobState, Request
from ranksieve.service.run.controller import Controller
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store
from ranksieve.service.store.retries import FAULTS

MakeSpec = Callable[..., JobSpec]
WaitUntil = Callable[[Callable[[], bool]], None]
StartController = Callable[..., Controller]
Submit = Callable[..., dict[str, str]]


@pytest.mark.parametrize(
    "fault",
    [
        InfrastructureError("Ray is gone"),
        OSError(errno.ENOSPC, "No space left on device", "/data/jobs"),
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


def test_a_job_without_room_waits_in_the_queue_for_as_long_as_it_takes(
    store: Store, make_spec: MakeSpec, start_controller: StartController, wait_until: WaitUntil
) -> None:
    session, looks = Session(), []

    def pipeline(job: Job, log: JobLog) -> dict[str, Any]:
        if job.name == "large" and len(looks) < FAULTS + 2:
            looks.append(store.job(other.id).state)
            raise NoRoomError("one actor needs a node with 8 GPU")
        return succeed(job, log)

    large, other = (store.submissions.create_job(make_spec(name)) for name in ("large", "other"))
    start_controller(pipeline, lease_s=SHORT_S, retry_s=0.1, session=session, running_jobs=1)
    wait_until(lambda: store.job(large.id).state is JobState.SUCCEEDED)

    waits = [event.data for event in store.events(large.id) if "retry_in_s" in event.data]
    assert [(data["state"], data["retry_in_s"]) for data in waits] == [("queued", 0.1)] * (FAULTS + 2)
    assert waits[0]["error"]["message"] == "one actor needs a node with 8 GPU"
    assert store.job(large.id).faults == 0
    assert JobState.SUCCEEDED in looks  # the other one had its turn meanwhile
    assert session.closed == 0


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
