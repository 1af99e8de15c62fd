"""Export of one archived candidate of a finished job, by size or by id.

An export is a small job of its own, so it is queued, leased, reported, cancelled and resumed like any other. All that
it needs from its parent job is copied at the request, so later changes of the parent do not affect it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ranksieve.search.errors import ConflictError, InputError
from ranksieve.service.job.export import KNOWN, TABLE, Export
from ranksieve.service.job.job import Job, JobState

TOLERANCE = 1e-9  # a share that was read from a list is that share


def check_exportable(job: Job) -> None:
    """Check that candidates of this job can be exported.

    Raises:
        ConflictError: The job has not succeeded, or is an export itself.
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
    """Return the best candidate that keeps at most a share.

    Args:
        front: Candidates that no smaller one beats, smallest first.
        share: Largest kept share of the prunable parameters.
        own: Share that the job's own model keeps. It may never have been scored on the search split.

    Raises:
        InputError: All candidates keep more.
    """
    fitting = [one for one in front if one["kept_share"] <= share + TOLERANCE]
    if not fitting:
        least = f"{front[0]['kept_share']:.4f}, what the smallest scored one keeps" if front else "1"
        beside = (
            f"; the job's own model keeps {own:.4f}: download that"
            if own is not None and own <= share + TOLERANCE
            else ""
        )
        raise InputError("share", f"must be at least {least}; got {share}{beside}")
    return dict(fitting[-1])


def export_of(job: Job, candidate: Mapping[str, Any], asked: dict[str, Any]) -> Export:
    """Return the export of a candidate of a job.

    Raises:
        InputError: The candidate could not be scored.
    """
    if candidate["failure"] is not None:
        raise InputError("candidate", f"could not be scored: {candidate['failure']}; choose another one")
    result = job.result or {}
    same = (one for one in result.get("finalists", []) if one["genome"] == candidate["genome"])
    return Export(
        job=job.id,
        asked=asked,
        candidate=dict(candidate),
        finalist=next(same, None),
        known={name: result[name] for name in KNOWN} | {TABLE: result.get(TABLE)},
    )
