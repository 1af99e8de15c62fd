"""The controller over fake pipelines."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_pipelines import Places, raising, succeed

from ranksieve.search.errors import CancelledError, InfrastructureError, InputError, ScoringError
from ranksieve.service.job.changes import JobChanges
from ranksieve.service.job.job import Job, JobState, Request
from ranksieve.service.run.controller import Controller
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.run.run import Pipeline
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store, mapping

MakeSpec = Callable[..., JobSpec]
WaitUntil = Callable[[Callable[[], bool]], None]
StartController = Callable[..., Controller]
Submit = Callable[..., dict[str, str]]


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


def test_the_failure_of_one_job_is_nothing_to_the_other(
    store: Store,
    submit: Submit,
    start_controller: StartController,
    wait_until: WaitUntil,
) -> None:
    places = Places("bad", "good")
    ids = submit("bad", "good")
    controller = start_controller(places, running_jobs=2)
    places.reach("bad", "good")

    places.end("bad", ZeroDivisionError())
    wait_until(lambda: store.job(ids["bad"]).state is JobState.FAILED)

    assert controller.alive
    places.end("good")
    wait_until(lambda: store.job(ids["good"]).state is JobState.SUCCEEDED)
    assert len([e for e in store.events(ids["good"]) if e.data["state"] == "validating"]) == 1


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


def test_all_running_jobs_end_with_the_server_and_go_on_with_the_next(
    store: Store, submit: Submit, start_controller: StartController, wait_until: WaitUntil
) -> None:
    places = Places("one", "other")
    ids = submit("one", "other", "queued")
    controller = start_controller(places, running_jobs=2)
    places.reach("one", "other")

    controller.stop()

    assert not controller.alive
    assert controller.running_jobs == []
    assert store.job(ids["queued"]).state is JobState.QUEUED
    for id in (ids["one"], ids["other"]):
        assert (store.job(id).state, store.job(id).cancel_requested) == (JobState.SEARCHING, False)
    start_controller(succeed, running_jobs=2)
    wait_until(lambda: all(store.job(id).state is JobState.SUCCEEDED for id in ids.values()))
    assert {store.job(id).faults for id in ids.values()} == {0}
    resumed = {name: [e.seq for e in store.events(id) if e.data.get("resumed")] for name, id in ids.items()}
    assert {name: len(found) for name, found in resumed.items()} == {"one": 1, "other": 1, "queued": 0}


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
