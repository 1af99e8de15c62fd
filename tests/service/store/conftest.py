"""A store whose time a test moves on."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy.orm import Session

from service.store import Store


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
