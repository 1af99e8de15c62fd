"""Forks: jobs whose seeds are the best genomes of another job.

Only the ranks are taken over, at submission: the fork may have another objective, budget or task, and no longer needs
its parent. The saved state of a search would bind it to the parent's settings instead.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ranksieve.search.errors import InputError, NotFoundError
from ranksieve.service.policy import policy_of
from ranksieve.service.spec import MOST_SEEDS, JobSpec, SeedSpec, TargetParams
from ranksieve.service.store import View


def forked(spec: JobSpec, jobs: View) -> JobSpec:
    """Return the spec with the seeds from its parent; unchanged without a parent.

    Args:
        spec: The job.
        jobs: Jobs that its owner may see.

    Raises:
        InputError: There is no such parent, it prunes another model, or it has finished no generation.
    """
    if spec.parent is None:
        return spec
    try:
        parent = jobs.job(spec.parent.job)
    except NotFoundError as error:
        raise InputError("parent.job", str(error)) from error
    if parent.spec.model != spec.model:
        raise InputError("parent.job", f"{parent.id} prunes another model; a fork has its parent's `model`")
    done = [record["generation"] for record in jobs.generations(parent.id, limit=100_001)]
    if not done:
        raise InputError(
            "parent.job", f"{parent.id} has finished no generation to go on from; wait, or name another job"
        )
    room = MOST_SEEDS - len(spec.search.seeds)
    chosen = _chosen(jobs.front(parent.id, last=done[-1]), min(room, policy_of(spec).search.population), spec)
    seeds = (*spec.search.seeds, *(SeedSpec(ranks=tuple(row["ranks"])) for row in chosen))
    return spec.model_copy(update={"search": spec.search.model_copy(update={"seeds": seeds})})


def _chosen(front: Sequence[Mapping[str, Any]], limit: int, spec: JobSpec) -> Sequence[Mapping[str, Any]]:
    """Choose at most `limit` genomes nearest to the target share.

    Without a target share they are spread evenly over the front.
    """
    if not isinstance(spec.objective, TargetParams):
        return _spread(front, limit)
    wanted = spec.objective.share
    return sorted(front, key=lambda row: abs(row["kept_share"] - wanted))[:limit]


def _spread(front: Sequence[Mapping[str, Any]], limit: int) -> list[Mapping[str, Any]]:
    """Choose at most `limit` genomes evenly over the front, with both ends."""
    if len(front) <= limit or limit < 2:
        return list(front[:limit])
    return [front[round(i * (len(front) - 1) / (limit - 1))] for i in range(limit)]
