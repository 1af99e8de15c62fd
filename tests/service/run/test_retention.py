from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from databases import ON_EACH
from sqlalchemy.orm import Session

from ranksieve.search.errors import GoneError, StoreError
from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import Job, JobState
from ranksieve.service.run.retention import EVERY_S, Retention
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store
from ranksieve.service.webhooks.outcomes import Outcome

MakeSpec = Callable[..., JobSpec]


class Clock:
    """Seconds that a test moves on."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def store(store_url: str) -> Store:
    """A store that thinks it is ten days later."""

    def later(_session: Session) -> datetime:
        return datetime.now(UTC) + timedelta(days=10)

    return Store(store_url, clock=later)


def ended(store: Store, make_spec: MakeSpec, state: JobState = JobState.FAILED) -> Job:
    """A job that has ended in a state, after four events."""
    store.submissions.create_job(make_spec())
    job = store.claims.claim_next(lease_s=1e6)
    assert job is not None
    store.runs.append_event(job.id, EventType.PHASE_PROGRESS, {"phase": "model"}, epoch=job.epoch)
    return store.runs.transition(job.id, state, epoch=job.epoch)


@ON_EACH
def test_events_of_jobs_that_ended_long_ago_go_and_others_stay(store: Store, make_spec: MakeSpec) -> None:
    old = ended(store, make_spec)
    waiting = store.submissions.create_job(make_spec())

    assert store.cleanup.forget_events(timedelta(days=11)) == 0
    assert len(store.events(old.id)) == 4
    assert store.cleanup.forget_events(timedelta(days=9)) == 4
    assert store.cleanup.forget_events(timedelta(days=9)) == 0

    assert store.job(old.id).state is JobState.FAILED
    assert len(store.events(waiting.id)) == 1
    store.close()


def test_a_crashed_job_keeps_its_events_for_it_may_be_resumed(store: Store, make_spec: MakeSpec) -> None:
    crashed = ended(store, make_spec, JobState.CRASHED)

    assert store.cleanup.forget_events(timedelta(days=9)) == 0
    assert len(store.events(crashed.id)) == 4
    store.close()


def test_a_reader_is_told_that_what_comes_next_is_gone(store: Store, make_spec: MakeSpec) -> None:
    old = ended(store, make_spec)
    store.cleanup.forget_events(timedelta(days=9))

    for after in range(4):
        with pytest.raises(
            GoneError, match=f"events up to 4 of job {old.id} are past retention; go on after=4"
        ):
            store.events(old.id, after=after)
    assert store.events(old.id, after=4) == []
    store.close()


def test_it_is_done_once_an_hour(store: Store, make_spec: MakeSpec, tmp_path: Path) -> None:
    clock = Clock()
    retention = Retention(store, 9, tmp_path, clock)
    old = ended(store, make_spec)

    retention()
    with pytest.raises(GoneError):
        store.events(old.id)
    young = ended(store, make_spec)
    clock.now_s = EVERY_S - 1
    retention()
    assert len(store.events(young.id)) == 4
    clock.now_s = EVERY_S
    retention()
    with pytest.raises(GoneError):
        store.events(young.id)
    store.close()


@ON_EACH
def test_deliveries_that_are_over_go_too(
    store: Store, store_url: str, make_spec: MakeSpec, tmp_path: Path
) -> None:
    today = Store(store_url)
    webhook, _ = today.webhooks.create("admin", "https://hooks.example.com/", [JobState.FAILED])
    for _ in range(2):
        ended(today, make_spec)
    sending = today.outbox.claim(lease_s=60)
    assert sending is not None
    today.outbox.settle(sending, Outcome(status=200), None)
    today.close()

    Retention(store, 9, tmp_path)()

    [waiting] = store.webhooks.deliveries(webhook.id)
    assert waiting.id != sending.id
    store.close()


def test_so_do_files_of_jobs_that_were_deleted(store: Store, make_spec: MakeSpec, tmp_path: Path) -> None:
    old = ended(store, make_spec)
    jobs_dir = tmp_path / "jobs"
    (jobs_dir / old.id).mkdir(parents=True)
    store.submissions.delete_job(old.id)  # and here its server dies

    Retention(store, 9, jobs_dir)()

    assert list(jobs_dir.iterdir()) == []
    store.close()


def test_what_failed_is_tried_again_at_once(store: Store, make_spec, tmp_path: Path, monkeypatch) -> None:
    old, retention = ended(store, make_spec), Retention(store, 9, tmp_path, Clock())

    def fail(age: timedelta) -> int:
        raise StoreError("connection refused")

    with monkeypatch.context() as patch:
        patch.setattr(store.cleanup, "forget_events", fail)
        with pytest.raises(StoreError):
            retention()
    retention()
    with pytest.raises(GoneError):
        store.events(old.id)
    store.close()
