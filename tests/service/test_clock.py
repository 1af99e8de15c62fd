import pytest

from service import clock
from service.clock import Clock


class Watch:
    """Stands in for the module `time`."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_time_counts_once_for_the_innermost_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, measured = Watch(), Clock()
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
