"""What a campaign of hostile inputs has seen, and what of it fails the campaign."""

from dataclasses import dataclass, field

MOST_MEMORY_BYTES = 10**9


@dataclass(kw_only=True, slots=True)
class Report:
    """What was seen."""

    seed: int
    inputs: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    faults: list[dict[str, str]] = field(default_factory=list)
    honest_jobs: int = 0
    honest_dry_runs_ms: list[float] = field(default_factory=list)
    health_p99_ms: float = 0.0
    health_idle_p99_ms: float = 0.0
    health_most_ms: float = 0.0
    health_errors: list[str] = field(default_factory=list)
    memory_bytes: int = 0
    seconds: float = 0.0

    def blame(self, kind: str, what: str, seen: str) -> None:
        """Add a fault."""
        self.faults.append({"kind": kind, "fault": what, "seen": seen})


def failures(report: Report, health_ms: float) -> list[str]:
    """What fails the campaign."""
    found = [f"{one['kind']}: {one['fault']}: {one['seen']}" for one in report.faults]
    found += [f"/healthz: {error}" for error in report.health_errors]
    if report.memory_bytes >= MOST_MEMORY_BYTES:
        found.append(f"the server took {report.memory_bytes / 1e9:.2f} GB")
    if report.health_p99_ms > health_ms:
        found.append(f"/healthz p99 was {report.health_p99_ms} ms; expected at most {health_ms:g}")
    return found


def row(report: Report) -> str:
    """The row of a table."""
    cells = [
        f"{sum(report.inputs.values()):,} inputs",
        f"{len(report.faults)} faults",
        f"{report.honest_jobs} honest jobs",
        f"{len(report.honest_dry_runs_ms)} dry runs",
        f"/healthz p99 {report.health_p99_ms} ms, idle {report.health_idle_p99_ms} ms",
        f"{report.memory_bytes / 1e6:.0f} MB",
        f"{report.seconds:.0f} s",
    ]
    return f"| {' | '.join(cells)} |"
