"""Request for the model of one archived candidate of a finished job."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from ranksieve.search.space.space import Genome

KNOWN = ("metric_name", "train_epochs", "data", "model", "dense", "reference")
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

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; `from_json` reverses it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the export that `to_json` described."""
        return cls(**data)
