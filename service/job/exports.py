"""What is asked of a finished job: the model of one of its archived candidates, chosen by its size or by its id.

An export is a small job of its own, so it is queued, leased, told of, cancelled and taken up again like any other. What
it needs to know of the job it comes from is copied when it is asked for: it stays what it was, whatever happens then.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from ranksieve.search.errors import ConflictError, InputError
from ranksieve.search.space.space import Genome
from ranksieve.service.job.job import Job, JobState
from ranksieve.workers.cost.latency import Latency

TOLERANCE = 1e-9  # a share that was read from a list is that share
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


def check_exportable(job: Job) -> None:
    """Whether candidates of this job can be exported.

    Raises:
        ConflictError: It has not succeeded, or is an export itself.
    """
    if job.export is not None:
        raise ConflictError(
            f"job {job.id} is an export itself; ask job {job.export.job}, which it comes from"
        )
    if job.state is not JobState.SUCCEEDED:
        raise ConflictError(
            f"job {job.id} is {job.state}; only a job that succeeded can be asked for more models"
        )


def best_at(front: Sequence[Mapping[str, Any]], share: float, own: float | None = None) -> dict[str, Any]:
    """The best candidate that keeps at most a share.

    Args:
        front: Candidates that no smaller one beats, smallest first.
        share: Of the prunable parameters.
        own: What the job's own model keeps; it may be a finalist that was never scored on the search split.

    Raises:
        InputError: All keep more.
    """
    fitting = [one for one in front if one["kept_share"] <= share + TOLERANCE]
    if not fitting:
        least = (
            f"{front[0]['kept_share']:.4f}, what the smallest scored on all search examples keeps"
            if front
            else "1"
        )
        beside = (
            f"; the job's own model keeps {own:.4f}: download that"
            if own is not None and own <= share + TOLERANCE
            else ""
        )
        raise InputError("share", f"must be at least {least}; got {share}{beside}")
    return dict(fitting[-1])


def export_of(job: Job, candidate: Mapping[str, Any], asked: dict[str, Any]) -> Export:
    """The export of a candidate of a job.

    Raises:
        InputError: The candidate could not be scored, or was screened by its loss alone.
    """
    if candidate["failure"] is not None:
        raise InputError("candidate", f"could not be scored: {candidate['failure']}; choose another one")
    if candidate["metric"] is None:
        raise InputError(
            "candidate",
            f"was screened by its loss on {candidate['examples']} examples, and no answers were written, so there is "
            "nothing that an export of it could be held to; choose one that was scored on all",
        )
    result = job.result or {}
    same = (one for one in result.get("finalists", []) if one["genome"] == candidate["genome"])
    return Export(
        job=job.id,
        asked=asked,
        candidate=dict(candidate),
        finalist=next(same, None),
        known={name: result[name] for name in KNOWN} | {TABLE: result.get(TABLE)},
    )
