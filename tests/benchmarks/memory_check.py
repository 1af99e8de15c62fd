"""Estimated against taken memory of every phase of a job that nothing is cached of yet: on the demo's task, or any.

    .venv/bin/python tests/benchmarks/memory_check.py --seed 7
    .venv/bin/python tests/benchmarks/memory_check.py --job job.yaml --root . --data-dir new/folder

Counts what the processes at work hold by themselves, and their parts of what they share (PSS, Linux alone); what idle
ones hold meanwhile is told apart. Not the server and Ray, which an estimate does not count either. Load on the machine
makes no difference. Which phase it is, the spans of the job say; the parts of preparing are told apart by what its
workers are called.
"""

import secrets
import threading
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from opentelemetry import trace
from real_model import parser
from tuning import tune

from ranksieve.api.cli.demo import demo_spec
from ranksieve.api.cli.embedded import embedded
from ranksieve.api.cli.spec_file import load_spec, validated
from ranksieve.service import wiring
from ranksieve.service.pipeline.checking import check_job
from ranksieve.service.pipeline.estimate import sizes_of
from ranksieve.service.policy import EFFORTS
from ranksieve.service.server.demo_assets import fetch
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.workers.cost.preparation_memory import preparation
from ranksieve.workers.factors.preparation import closed_form, prepare

EVERY_S = 0.5
PARTS = {
    closed_form.__name__: "calibration",
    prepare.__name__: "training",
}
OF_RAY = ("DashboardAgent", "RuntimeEnvAgent")


class Spans(trace.TracerProvider, trace.Tracer):
    """Knows which span is the innermost; those of one job follow each other or lie in each other."""

    def __init__(self) -> None:
        self._open = [""]

    @property
    def innermost(self) -> str:
        return self._open[-1]

    def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
        return self

    def start_span(self, *_: Any, **__: Any) -> trace.Span:
        return trace.INVALID_SPAN

    @contextmanager
    def start_as_current_span(self, name: str, *_: Any, **__: Any) -> Iterator[trace.Span]:
        self._open.append(name)
        try:
            yield trace.INVALID_SPAN
        finally:
            self._open.pop()


class Peaks:
    """The most that processes at work held at once in each phase, and what idle ones held then."""

    def __init__(self, spans: Spans) -> None:
        self.bytes: dict[str, tuple[int, int]] = {}
        self._spans = spans
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
            phase = self._spans.innermost
            held = list(filter(None, map(_held, psutil.Process().children(recursive=True))))
            if phase == "prepare":
                phase = next((PARTS[name] for name in PARTS for title, _ in held if name in title), phase)
            idle = sum(size for title, size in held if "IDLE" in title)
            most = sum(size for _, size in held) - idle, idle
            self.bytes[phase] = max(most, self.bytes.get(phase, most))


def _held(process: psutil.Process) -> tuple[str, int] | None:
    """Of a worker, what it does and what it holds."""
    try:
        title = " ".join(process.cmdline())
        if not title.startswith("ray::") or any(name in title for name in OF_RAY):
            return None
        return title, int(process.memory_full_info().pss)
    except psutil.Error:  # it has ended meanwhile
        return None


def main() -> None:
    arguments = _arguments()
    settings = Settings(
        data_dir=arguments.data_dir,
        host="127.0.0.1",
        roots=[*arguments.root, arguments.data_dir],
        api_key=secrets.token_urlsafe(),  # type: ignore[arg-type]
    )
    spec = _spec(arguments, settings)
    spans = Spans()
    trace.set_tracer_provider(spans)
    peaks = Peaks(spans)
    with embedded(wiring.build(settings)) as client, peaks.measured():
        estimate = client.estimate(spec.canonical())
        submitted = client.submit(spec.canonical())
        (*_, ended) = client.events(submitted["id"])
    spec = JobSpec.model_validate(submitted["spec"])
    model, job = sizes_of(settings, spec, check_job(settings, spec, "listed"))
    estimated = {name: part.host_bytes for name, part in preparation(model, job).items()}
    estimated |= {one["phase"]: one["host_bytes"] for one in estimate["phases"] if one["phase"] != "prepare"}
    print(f"the job: {ended['data']['state']}")
    print(f"{'phase':>12}{'estimated, GB':>15}{'taken, GB':>11}{'idle, GB':>10}")
    for name, estimated_bytes in estimated.items():
        if name in peaks.bytes:
            taken, idle = peaks.bytes[name]
            print(f"{name:>12}{estimated_bytes / 1e9:>15.2f}{taken / 1e9:>11.2f}{idle / 1e9:>10.2f}")


def _arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--seed", type=int, default=7, help="of the job")
    options.add_argument("--job", type=Path, help="job file of another one than on the demo's task")
    options.add_argument(
        "--root", type=Path, action="append", default=[], help="folder that the job's files are in"
    )
    arguments: Namespace = options.parse_args()
    return arguments


def _spec(arguments: Namespace, settings: Settings) -> JobSpec:
    if arguments.job is not None:
        return load_spec(arguments.job)
    assets = fetch(settings.cache_dir)
    demo = demo_spec(assets.gguf, assets.reviews, seed=arguments.seed, effort="normal")
    document = demo.canonical()
    document["objective"] = {"kind": "target_latency", "share": 0.7}
    return validated(tune(document, EFFORTS["normal"]))


if __name__ == "__main__":
    main()
