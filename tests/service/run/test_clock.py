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


def test_times_of_a_phase_add_up_in_the_order_of_beginnings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    watch, measured = Watch(), Clock(tmp_path)
    monkeypatch.setattr(clock, "time", watch)
    for name, seconds in (("prepare", 1), ("latency", 30), ("prepare", 2)):
        with measured.phase(name):
            watch.sleep(seconds)
    assert list(measured.seconds.items()) == [("prepare", 3), ("latency", 30)]


def test_a_job_that_is_taken_up_again_counts_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    watch = Watch()
    monkeypatch.setattr(clock, "time", watch)
    measured = Clock(tmp_path / "job")
    with measured.phase("prepare"):
        watch.sleep(1)

    def pause() -> None:
        watch.sleep(3)
        raise CancelledError("paused")

    with pytest.raises(CancelledError), measured.phase("confirm"):
        pause()

    resumed = Clock(tmp_path / "job")
    with resumed.phase("prepare"):
        watch.sleep(5)
    assert resumed.seconds == {"prepare": 6, "confirm": 3}
