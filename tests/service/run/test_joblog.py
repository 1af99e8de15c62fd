from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tuning import tune

from ranksieve.search.errors import CancelledError, ConflictError
from ranksieve.service.job.changes import JobChanges
from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import JobState
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.server.metrics import Metrics
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store


@pytest.fixture
def log(store: Store, make_spec: Callable[..., JobSpec], tmp_path: Path) -> JobLog:
    store.submissions.create_job(make_spec())
    job = store.claims.claim_next()
    assert job is not None
    return JobLog(store, job, tmp_path)


def test_moves_and_events_reach_the_job(log: JobLog, store: Store) -> None:
    log.event(EventType.PHASE_PROGRESS, phase="calibration", done=1, total=2)
    log.state(JobState.PREPARING)

    assert store.job(log.job.id).state is JobState.PREPARING
    assert [(event.type, event.data) for event in store.events(log.job.id)][2:] == [
        (EventType.PHASE_PROGRESS, {"phase": "calibration", "done": 1, "total": 2}),
        (EventType.JOB_STATE, {"state": "preparing"}),
    ]


def test_whoever_watches_a_job_hears_of_it_as_it_is_and_as_it_changes(log: JobLog, store: Store) -> None:
    heard: list[int] = []

    log.update(store.user_requests.change(log.job.id, JobChanges(actors=3)))
    with log.watching(lambda job: heard.append(job.spec.resources.actors)):
        log.update(store.user_requests.change(log.job.id, JobChanges(actors=4)))
    log.update(store.user_requests.change(log.job.id, JobChanges(actors=5)))

    assert heard == [3, 4]
    assert not log.cancelled.is_set()


def test_a_job_that_another_server_has_claimed_ends_here(log: JobLog, store: Store) -> None:
    store.claims.release_all()
    log.update(store.job(log.job.id))
    assert log.cancelled.is_set()


def test_an_illegal_move_is_refused(log: JobLog) -> None:
    with pytest.raises(ConflictError):
        log.state(JobState.SUCCEEDED)


def test_a_generation_is_there_for_the_next_run(log: JobLog, make_candidate: Callable[..., Any]) -> None:
    assert log.search_state() is None

    log.generation({"generation": 0}, [make_candidate(0, 16)], {"next": 1})

    assert log.search_state() == {"next": 1}
    assert log.memo() == [make_candidate(0, 16)]


def test_generations_are_counted_once_they_are_saved(
    store: Store, log: JobLog, make_candidate: Callable[..., Any], tmp_path: Path
) -> None:
    metrics = Metrics()
    log = JobLog(store, log.job, tmp_path, metrics)

    for number in range(3):
        log.generation({"generation": number}, [make_candidate(number, 16)] * 2, {})
    with pytest.raises(ConflictError, match="already saved"):
        log.generation({"generation": 0}, [make_candidate(0, 16)], {})

    text = metrics.text().decode()
    assert 'ranksieve_evaluations_total{outcome="scored"} 6.0' in text
    assert "ranksieve_generation_seconds_count 2.0" in text


def test_the_pipeline_goes_on_until_asked_to_end(log: JobLog) -> None:
    log.raise_if_cancelled()
    log.cancelled.set()

    with pytest.raises(CancelledError, match=log.job.id):
        log.raise_if_cancelled()


def test_no_secret_is_kept_in_an_event(log: JobLog, store: Store) -> None:
    log.event(EventType.CANDIDATE_FAILED, reason="GET https://me:s3cret@hub/x: Bearer 0123456789abcdefghij")

    reason = store.events(log.job.id)[-1].data["reason"]
    assert reason == "GET https://me:[redacted]@hub/x: Bearer [redacted]"


@pytest.mark.parametrize(
    ("phases", "constants", "expected"),
    [
        (["model"], {}, [("factors", "hit")]),
        (["model", "calibration", "projection"], {}, [("factors", "miss")]),
        (["model"], {"train_epochs": 1}, [("factors", "hit"), ("trained_factors", "hit")]),
        (["model", "training"], {"train_epochs": 1}, [("factors", "hit"), ("trained_factors", "miss")]),
    ],
)
def test_what_the_cache_had_is_counted(
    store: Store,
    make_spec: Callable[..., JobSpec],
    tmp_path: Path,
    phases: list[str],
    constants: dict[str, Any],
    expected: list[tuple[str, str]],
) -> None:
    document = make_spec().canonical() | {"policy": constants}
    store.submissions.create_job(JobSpec.model_validate(tune(document)))
    job, metrics = store.claims.claim_next(), Metrics()
    assert job is not None
    log = JobLog(store, job, tmp_path, metrics)

    for phase in phases:
        log.progress(phase)(1, 1)
    log.count_preparation()

    counted = [
        line for line in metrics.text().decode().splitlines() if line.startswith("ranksieve_cache_total")
    ]
    assert counted == [
        f'ranksieve_cache_total{{kind="{kind}",outcome="{outcome}"}} 1.0' for kind, outcome in expected
    ]
