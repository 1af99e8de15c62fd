"""Request for the model of one archived candidate of a finished job."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from ranksieve.search.space.space import Genome

KNOWN = ("metric_name", "method", "train_epochs", "data", "model", "dense", "reference")
"""Fields of a job's result that hold for all its candidates."""

TABLE = "latency_table"
"""Field of the latency table, by which levels are defined; None without one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """One archived candidate of a job that has succeeded.

    Args:
        job: Id of that job.
        asked: The requested `share` or `candidate`.
        candidate: The candidate's scoring on the search split, as archived.
        finalist: The candidate's entry among the confirmed finalists, if it was one.
        known: Fields of the job's result that hold for all its candidates, see `KNOWN`.
    """

    job: str
    asked: dict[str, Any]
    candidate: dict[str, Any]
    finalist: dict[str, Any] | None
    known: dict[str, Any]

    @property
    def genome(self) -> Genome:
        """The candidate's genome."""
        return tuple(self.candidate["genome"])

    def refit_file(self, jobs_dir: Path) -> Path | None:
        """Return the file of left factors fitted to this candidate, if it exists."""
        name = (self.finalist or {}).get("refit")
        file = jobs_dir / self.job / "refit" / str(name)
        return file if name is not None and file.is_file() else None

    def confirmed(self, refit: Path | None) -> dict[str, Any] | None:
        """Return the confirm scores of the model with these factors, or None.

        None: a model with other factors was confirmed, or the candidate was no finalist.
        """
        finalist = self.finalist
        return finalist if finalist is not None and (finalist["refit"] is None) == (refit is None) else None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; `from_json` reverses it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the export that `to_json` described."""
        return cls(**data)
