"""A store whose time a test moves on, and jobs brought to where a test wants them."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.orm import Session

from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import Job, JobState
from ranksieve.service.store import Store

WAY = [JobState.VALIDATING, JobState.PREPARING, JobState.SEARCHING, JobState.FINALIZING, JobState.SUCCEEDED]
WAYS_TO = {
    JobState.QUEUED: [],
    JobState.STOPPING: [JobState.VALIDATING, JobState.PREPARING, JobState.STOPPING],
    JobState.PAUSED: [JobState.PAUSED],
    JobState.CRASHED: [JobState.CRASHED],
    **{state: WAY[: WAY.index(state) + 1] for state in WAY},
    JobState.FAILED: [JobState.FAILED],
    JobState.CANCELLED: [JobState.CANCELLED],
}


class Clock:
    """The database's time: it stands still, ahead of the machine's own, until a test moves it on."""

    def __init__(self) -> None:
        self._now = datetime.now(UTC) + timedelta(hours=1)

    def __call__(self, _session: Session) -> datetime:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


@pytest.fixture
def database_clock() -> Clock:
    return Clock()


@pytest.fixture
def advance(database_clock: Clock) -> Callable[[float], None]:
    """Moves the time of `timed` and `other` on by so many seconds."""
    return database_clock.advance


@pytest.fixture
def timed(store_url: str, database_clock: Clock) -> Iterator[Store]:
    """A store that goes by the test's time."""
    store = Store(store_url, database_clock)
    yield store
    store.close()


@pytest.fixture
def other(store_url: str, database_clock: Clock) -> Iterator[Store]:
    """What another server, or the next one, has of the same database."""
    store = Store(store_url, database_clock)
    yield store
    store.close()


@pytest.fixture
def bring() -> Callable[[Store, Job, JobState], Job]:
    """Moves a queued job to a state, over legal moves."""

    def bring(store: Store, job: Job, state: JobState) -> Job:
        for step in WAYS_TO[state]:
            job = store.runs.transition(job.id, step, epoch=job.epoch)
        return job

    return bring


@pytest.fixture
def claim() -> Callable[..., Job]:
    """The next job of a store, for ten seconds if nothing else is said."""

    def claim(store: Store, lease_s: float = 10) -> Job:
        job = store.claims.claim_next(lease_s)
        assert job is not None
        return job

    return claim


@pytest.fixture
def states_of() -> Callable[[Store, str], list[str]]:
    """Returns the states of a job's events, oldest first."""

    def states_of(store: Store, job_id: str) -> list[str]:
        return [event.data["state"] for event in store.events(job_id) if event.type is EventType.JOB_STATE]

    return states_of
