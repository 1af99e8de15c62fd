"""Progress of a followed job: moving bars on a terminal, plain lines elsewhere.

Reads the events of `service.job.events` as the client delivers them. Knows nothing of HTTP.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from importlib.util import find_spec
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from ranksieve.api.cli.output.sparkline import best_line
from ranksieve.api.cli.output.terminal import plain
from ranksieve.api.plots.segments import Segments
from ranksieve.workers.types.metrics import drop_unit

Event = Mapping[str, Any]

_RUN_OVER = frozenset({"queued", "validating", "paused", "succeeded", "failed", "crashed", "cancelled"})
"""States that end a job's run or begin another; earlier phases are over."""

_PHASES = {
    "fetch": "fetch model, MB",
    "model": "load model",
    "tuning": "tune dense model",
    "calibration": "calibrate",
    "projection": "factor matrices",
    "recalibration": "calibrate midway",
    "reprojection": "factor matrices again",
    "training": "train factors",
    "latency": "measure latencies",
    "dense": "score dense model",
    "search": "search",
    "confirm": "confirm finalists",
    "test": "test",
    "export": "export",
    "verify": "verify export",
}


class View(Protocol):
    """Display of events as they arrive."""

    def update(self, event: Event) -> None:
        """Show one more event."""


@contextmanager
def progress_view(console: Console) -> Iterator[View]:
    """Show one job: live on a terminal and in notebooks with widgets, else by lines."""
    if not (console.is_terminal or (console.is_jupyter and find_spec("ipywidgets"))):
        yield PlainView(console)
        return
    view = LiveView(console)
    with view.live:
        yield view


class PlainView:
    """One line per finished phase, generation and notable event; no control codes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._narrator = Narrator()

    def update(self, event: Event) -> None:
        """Print the event's line, if it is worth one."""
        line = self._narrator.line(event)
        if line is not None:
            _print_line(self._console, line)


class LiveView:
    """Bars of running phases, a search line and its curve, below finished steps."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._narrator = Narrator()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, console=console)
        self._tasks: dict[str, TaskID] = {}
        self._search = ""
        self._segments = Segments()
        self.live = Live(get_renderable=self._render, console=console, transient=True, refresh_per_second=5)

    def update(self, event: Event) -> None:
        """Move the bars, and print the event's line above them if it is worth one."""
        line = self._narrator.line(event)
        if event["type"] == "generation.completed":
            self._search = line or ""
            self._segments.add(event["data"])
        elif line is not None:
            _print_line(self._console, line)
        if event["type"] == "phase.progress":
            self._move(event["data"])
        elif event["type"] == "job.state":
            self._clear_bars()
            if _ends_run(event):
                self._search, self._segments = "", Segments()

    def _move(self, data: Mapping[str, Any]) -> None:
        phase, done, total = data["phase"], data["done"], data["total"]
        if phase not in self._tasks:
            self._tasks[phase] = self._bars.add_task(_PHASES.get(phase, phase), total=total)
        task = self._tasks[phase]
        self._bars.update(task, completed=done, total=total, visible=done < total)

    def _clear_bars(self) -> None:
        for task in self._tasks.values():
            self._bars.remove_task(task)
        self._tasks.clear()

    def _render(self) -> RenderableType:
        return Group(self._bars, Text(self._search), Text(best_line(self._segments)))


class Narrator:
    """Lines for events; remembers when phases began and the unit of drops."""

    def __init__(self) -> None:
        self._drop_unit = "points"
        self._began: dict[str, datetime] = {}
        self._finished: set[str] = set()

    def line(self, event: Event) -> str | None:
        """Return the line of an event, or None if it only moves a bar."""
        data = event["data"]
        if _ends_run(event):
            self._began.clear()
        match event["type"]:
            case "phase.progress":
                return self._phase(datetime.fromisoformat(event["at"]), data)
            case "job.state":
                return _state(data)
            case "job.changed":
                return f"job changed: {', '.join(data)}"
            case "generation.completed":
                return _generation(data, self._drop_unit)
            case "data.loaded":
                sizes = ", ".join(f"{name} {count}" for name, count in data["splits"].items())
                dropped = data["dropped_duplicates"]
                duplicates = f"; {dropped} duplicates dropped" if dropped else ""
                return "\n".join(
                    [f"data: {sizes}{duplicates}", *(f"note: {note}" for note in data.get("notes", ()))]
                )
            case "model.loaded":
                params = f"{data['block_params']:,} of {data['total_params']:,} parameters in blocks"
                return f"model: {data['matrices']} matrices, {params}, {data['dtype']} on {data['device']}"
            case "dense.scored":
                self._drop_unit = drop_unit(data["metric_name"])
                return f"dense {data['metric_name']} on {data['split']}: {data['metric']:.4f}"
            case "finalist.confirmed":
                return _finalist(data, self._drop_unit)
            case "cluster.notice":
                return str(data["reason"])
            case "actor.replaced":
                return f"actor {data['actor']} replaced: {data['reason']}"
            case "candidate.failed":
                return _failed(data)
            case "artifact.exported":
                return f"exported {data['file_bytes'] / 1e6:,.1f} MB to {data['path']}"
            case "artifact.verified":
                return (
                    f"loaded back in a fresh process: {data['metric']:.4f}, expected {data['expected']:.4f}"
                )
            case _:
                return None

    def _phase(self, at: datetime, data: Mapping[str, Any]) -> str | None:
        """Return the line of a finished phase, once for each time it starts."""
        phase = data["phase"]
        if data["done"] < data["total"]:
            self._began.setdefault(phase, at)
            self._finished.discard(phase)
            return None
        if phase in self._finished:
            return None
        self._finished.add(phase)
        began = self._began.pop(phase, at)
        return f"{_PHASES.get(phase, phase)}: done in {(at - began).total_seconds():.1f} s"


def _ends_run(event: Event) -> bool:
    return event["type"] == "job.state" and event["data"]["state"] in _RUN_OVER


def _print_line(console: Console, line: str) -> None:
    console.print(plain(line), soft_wrap=True)


def _state(data: Mapping[str, Any]) -> str:
    error = data.get("error")
    if error is not None:
        field = f"{error['field']}: " if error.get("field") else ""
        wait = f" again in {data['retry_in_s']:.0f} s" if "retry_in_s" in data else ""
        return f"job {data['state']}{wait}: {field}{error['message']}"
    return f"job {data['state']}" + (" again, to resume where it stopped" if data.get("resumed") else "")


def _generation(data: Mapping[str, Any], unit: str) -> str:
    return (
        f"generation {data['generation']}: {data['evaluations']} evaluations, "
        f"target {_percent(data['target_share'])}, best kept {_percent(data['kept_share'])}, "
        f"KL {_number(data['kl_nats'], '.4f')} nats, drop {_number(data['drop_points'], '+.2f')} {unit}"
    )


def _failed(data: Mapping[str, Any]) -> str:
    generation = data["generation"]
    who = "a finalist" if generation is None else f"a candidate of generation {generation}"
    return f"{who} failed: {data['reason']}"


def _finalist(data: Mapping[str, Any], unit: str) -> str:
    interval = f"[{_number(data['drop_low'], '+.2f')}, {_number(data['drop_high'], '+.2f')}]"
    drop = _number(data["drop_points"], "+.2f")
    return f"finalist keeping {_percent(data['kept_share'])}: drop {drop} {unit} {interval}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"  # noqa: RUF001 (a dash for no value)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)  # noqa: RUF001 (a dash for no value)
