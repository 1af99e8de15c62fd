"""Estimated against taken memory, phase by phase, of the demo's job with a seed that nothing is cached of yet.

    .venv/bin/python tests/benchmarks/memory_check.py --seed 7

Counts what the worker processes hold by themselves, and their parts of what they share (PSS, Linux alone); not the
server and Ray, which an estimate does not count either. Load on the machine makes no difference.
"""

import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
from real_model import parser

from api.demo import demo_spec
from api.embedded import embedded
from service import wiring
from service.settings import Settings

EVERY_S = 0.5
PREPARING = {
    "model",
    "calibration",
    "projection",
    "recalibration",
    "reprojection",
    "propagation",
    "refinement",
}
OF_RAY = ("DashboardAgent", "RuntimeEnvAgent")


class Peaks:
    """The most that workers held at once in each phase; `phase` says which it is."""

    def __init__(self) -> None:
        self.phase = "prepare"
        self.bytes: dict[str, int] = {}
        self._over = threading.Event()

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Looks twice a second for as long as the block lasts."""
        thread = threading.Thread(target=self._look)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _look(self) -> None:
        while not self._over.wait(EVERY_S):
            held = sum(map(_held, psutil.Process().children(recursive=True)))
            self.bytes[self.phase] = max(held, self.bytes.get(self.phase, 0))


def _held(process: psutil.Process) -> int:
    try:
        title = " ".join(process.cmdline())
        if not title.startswith("ray::") or any(name in title for name in OF_RAY):
            return 0
        return int(process.memory_full_info().pss)
    except psutil.Error:  # it has ended meanwhile
        return 0


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seed", type=int, default=7)
    arguments = options.parse_args()
    settings = Settings(
        data_dir=arguments.data_dir,
        host="127.0.0.1",
        api_key=secrets.token_urlsafe(),  # type: ignore[arg-type]
    )
    assets = wiring.demo_assets(settings)
    spec = demo_spec(assets.gguf, assets.reviews, seed=arguments.seed, method="task", refine_epochs=1)
    peaks = Peaks()
    with embedded(wiring.build(settings)) as client, peaks.measured():
        estimate = client.estimate(spec.canonical())
        told = {phase["phase"]: phase["host_bytes"] for phase in estimate["phases"]}
        print(f"{'phase':>10}{'told, GB':>10}{'taken, GB':>10}")
        for event in client.events(client.submit(spec.canonical())["id"]):
            name = event["data"].get("phase") if event["type"] == "phase.progress" else None
            phase = "prepare" if name in PREPARING else name
            if phase and phase != peaks.phase:
                _print(peaks, told)
                peaks.phase = phase
    _print(peaks, told)


def _print(peaks: Peaks, told: dict[str, int]) -> None:
    taken = peaks.bytes.get(peaks.phase, 0)
    print(f"{peaks.phase:>10}{told[peaks.phase] / 1e9:>10.1f}{taken / 1e9:>10.1f}", flush=True)


if __name__ == "__main__":
    main()
