"""The request for a model of one archived candidate of a finished job."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from ranksieve.search.space.space import Genome
from ranksieve.workers.cost.latency import Latency

KNOWN = ("metric_name", "method", "refine_epochs", "data", "model", "dense")
"""What is the same of every candidate of a job, by its name in the job's result."""

TABLE = "latency_table"
"""What ranks cost where a search was for a latency: levels are what they are by it. Others have none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """One archived candidate of a job that has succeeded.

    Args:
        job: Id of that job.
        asked: `share` or `candidate`, as it was asked for.
        candidate: The candidate's scoring on the search split, as archived.
        finalist: What was confirmed of it, where it was a finalist.
        known: What the job's result says of all its candidates, see `KNOWN`.
    """

    job: str
    asked: dict[str, Any]
    candidate: dict[str, Any]
    finalist: dict[str, Any] | None
    known: dict[str, Any]

    @property
    def latency(self) -> Latency | None:
        """What the ranks of the job cost in time, where that is what it searched for."""
        table = self.known.get(TABLE)
        return None if table is None else Latency.from_json(table)

    @property
    def genome(self) -> Genome:
        """The candidate's genome."""
        return tuple(self.candidate["genome"])

    def refit_file(self, jobs_dir: Path) -> Path | None:
        """The left factors fitted to this candidate alone, where it was a finalist and they are still there."""
        name = (self.finalist or {}).get("refit")
        file = jobs_dir / self.job / "refit" / str(name)
        return file if name is not None and file.is_file() else None

    def confirmed(self, refit: Path | None) -> dict[str, Any] | None:
        """What was confirmed of the model with these factors; None where another one was, or none."""
        finalist = self.finalist
        return finalist if finalist is not None and (finalist["refit"] is None) == (refit is None) else None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; `from_json` reverses it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """From `to_json`."""
        return cls(**data)
