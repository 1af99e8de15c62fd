"""What a server does that loses its job, by the heartbeat alone."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from ranksieve.search.errors import StoreError, SupersededError
from ranksieve.service.run.lease import Lease


class Beats:
    """A store whose heartbeats raise one error after another; `over` once there are none left."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.over = threading.Event()

    def renew(self, id: str, lease_s: float, *, epoch: int) -> Any:
        assert (id, epoch) == ("j1", 3)
        if not self._errors:
            self.over.set()
            return "the job"
        raise self._errors.pop(0)


class Log:
    def __init__(self) -> None:
        self.job = SimpleNamespace(id="j1", epoch=3)
        self.cancelled = threading.Event()
        self.updates: list[Any] = []

    def update(self, job: Any) -> None:
        self.updates.append(job)


@pytest.mark.parametrize(
    ("errors", "ends"), [([SupersededError("taken over")], True), ([StoreError("away")], False)]
)
def test_a_job_that_was_taken_over_ends_here_and_one_whose_database_is_away_goes_on(
    errors: list[Exception], ends: bool
) -> None:
    store, log = Beats(*errors), Log()
    with Lease(store, log, 0.06):  # type: ignore[arg-type]
        assert store.over.wait(30)
    assert log.cancelled.is_set() is ends
    assert "the job" in log.updates
