from pathlib import Path

import pytest

from ranksieve.search.errors import CancelledError
from ranksieve.service.run import clock
from ranksieve.service.run.clock import Clock


class Watch:
    """Stands in for the module `time`."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_time_counts_once_for_the_innermost_phase(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    watch, measured = Watch(), Clock(tmp_path)
    monkeypatch.setattr(clock, "time", watch)
    with measured.phase("prepare"):
        watch.sleep(1)
    for _ in range(2):
        with measured.phase("confirm"):
            watch.sleep(2)
            with measured.phase("refit"):
                watch.sleep(30)
            watch.sleep(4)
    assert measured.seconds == {"prepare": 1, "confirm": 12, "refit": 60}
    assert list(measured.seconds) == ["prepare", "confirm", "refit"]


def test_a_job_that_is_taken_up_again_counts_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    watch = Watch()
    monkeypatch.setattr(clock, "time", watch)
    measured = Clock(tmp_path / "job")
    with measured.phase("prepare"):
        watch.sleep(1)

    def pause() -> None:
        watch.sleep(3)
        raise CancelledError("paused")

    with pytest.raises(CancelledError), measured.phase("confirm"), measured.phase("refit"):
        pause()

    resumed = Clock(tmp_path / "job")
    with resumed.phase("prepare"):
        watch.sleep(5)
    assert resumed.seconds == {"prepare": 6, "confirm": 0, "refit": 3}
