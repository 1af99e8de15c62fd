"""Plan of a job's search: space, objective, settings and seeds.

Errors in these are found here, before anything is calibrated, because `checking.check_job` makes the plan too. Only
whether a model can be as fast as required is not known before its matrices are timed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ranksieve.search.errors import InputError
from ranksieve.search.evolution.proposals import TARGET_SEEDS
from ranksieve.search.evolution.schedules import SEED_SHARES, schedule_for
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.constraints import Constraint, constrained
from ranksieve.search.space.latency import LatencyTable
from ranksieve.search.space.matrix import DENSE, MatrixShape, Price
from ranksieve.search.space.objectives import (
    MaxDrop,
    Objective,
    Pareto,
    TargetBytes,
    TargetLatency,
    TargetParams,
)
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.seeds import from_densities
from ranksieve.service import spec as job
from ranksieve.service.pipeline.plans import Roots, resolve_path
from ranksieve.service.policy import FRONT, policy_of
from ranksieve.service.spec import ConstraintSpec, JobSpec, SeedSpec
from ranksieve.workers.cost.latency import Latency
from ranksieve.workers.model.filesize import ITEM_BYTES, Remainder, Storage

MOST_SEED_BYTES = 2**24
"""Largest file of ranks; 150,000 matrices take 10 MB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchPlan:
    """Input of the search.

    `seeds`: genomes of the user. `latency`: the table that budgets in time refer to.
    """

    space: SearchSpace
    objective: Objective
    settings: SearchSettings
    seeds: tuple[Genome, ...] = ()
    latency: Latency | None = None


def seedless(spec: JobSpec) -> JobSpec:
    """Return the spec without seeds.

    Their files may have gone once a search has begun.
    """
    return spec.model_copy(update={"search": spec.search.model_copy(update={"seeds": ()})})


def check_search_plan(
    spec: JobSpec, matrices: Sequence[MatrixShape], remainder: Remainder, dtype: str, roots: Roots
) -> None:
    """Check what `search_plan` would, as far as possible before matrices are timed.

    Raises:
        InputError: Constraints, objective or seeds cannot be met; names the field.
    """
    if isinstance(spec.objective, job.TargetLatency):
        _seeds(spec, _space(spec, matrices, None), roots)
    else:
        search_plan(spec, matrices, remainder, dtype, roots)


def search_plan(
    spec: JobSpec,
    matrices: Sequence[MatrixShape],
    remainder: Remainder,
    dtype: str,
    roots: Roots,
    latency: Latency | None = None,
    absent: Sequence[MatrixShape] = (),
) -> SearchPlan:
    """Return the plan of a job's search.

    Args:
        spec: The job.
        matrices: Matrices of its model to prune.
        remainder: The rest of the model.
        dtype: Working dtype, in which bytes are counted.
        roots: Folders that seeds may be read from.
        latency: Latency table, for an objective of that kind.
        absent: Matrices of blocks that were cut.

    Raises:
        InputError: Constraints, objective or seeds cannot be met; names the field.
    """
    table = None if latency is None else latency.table
    space = _space(spec, matrices, _price(spec, dtype, table), absent)
    objective = _objective(spec, space, remainder, dtype, table)
    settings = policy_of(spec).search
    schedule_for(objective, space, patience=settings.patience)  # refuses what is out of reach
    return SearchPlan(
        space=space,
        objective=objective,
        settings=settings,
        seeds=tuple(_seeds(spec, space, roots)),
        latency=latency,
    )


def _price(spec: JobSpec, dtype: str, latency: LatencyTable | None) -> Price | None:
    """Return the cost of a rank in the unit of the objective; None for parameters."""
    if isinstance(spec.objective, job.TargetBytes):
        return Storage(dtype=dtype, bits=spec.bits).matrix_bytes
    return None if latency is None else latency.price


def _space(
    spec: JobSpec,
    matrices: Sequence[MatrixShape],
    price: Price | None,
    absent: Sequence[MatrixShape] = (),
) -> SearchSpace:
    constraints = [_constraint(one, i) for i, one in enumerate(spec.search.constraints)]
    return constrained(matrices, policy_of(spec).rank_step, constraints, price, absent)


def _constraint(one: ConstraintSpec, index: int) -> Constraint:
    least, greatest = one.density
    return Constraint(
        field=f"search.constraints.{index}",
        matrices=one.matrices,
        min_density=least,
        max_density=greatest,
        tied=one.tied,
    )


def _objective(
    spec: JobSpec, space: SearchSpace, remainder: Remainder, dtype: str, latency: LatencyTable | None
) -> Objective:
    objective = spec.objective
    if isinstance(objective, job.MaxDrop):
        return MaxDrop(points=objective.points)
    if isinstance(objective, job.TargetParams):
        return TargetParams(share=objective.share)
    if isinstance(objective, job.Pareto):
        return Pareto(points=objective.points, **FRONT)
    if isinstance(objective, job.TargetLatency):
        assert latency is not None
        return _target_latency(objective, latency)
    other_bytes = remainder.size_bytes(Storage(dtype=dtype, bits=spec.bits))
    if objective.size is not None:
        return TargetBytes(size_bytes=int(objective.size), other_bytes=other_bytes)
    assert objective.share is not None
    dense_bytes = remainder.dense_bytes(dtype) + space.total_params * ITEM_BYTES[dtype]
    size_bytes = int(objective.share * dense_bytes)
    return TargetBytes(size_bytes=size_bytes, other_bytes=other_bytes, field="objective.share")


def _target_latency(objective: job.TargetLatency, latency: LatencyTable) -> TargetLatency:
    other = latency.other_nanoseconds
    if objective.milliseconds is not None:
        return TargetLatency(nanoseconds=round(objective.milliseconds * 1e6), other_nanoseconds=other)
    assert objective.share is not None
    nanoseconds = int(objective.share * latency.dense_nanoseconds)
    return TargetLatency(nanoseconds=nanoseconds, other_nanoseconds=other, field="objective.share")


def _seeds(spec: JobSpec, space: SearchSpace, roots: Roots) -> list[Genome]:
    return [
        from_densities(space, _densities(seed, space, f"search.seeds.{index}", roots))
        for index, seed in enumerate(spec.search.seeds)
    ]


def own_seeds(spec: JobSpec) -> int:
    """Return the most genomes that a search starts from, without those of the user."""
    if isinstance(spec.objective, job.Pareto):
        return int(FRONT["sizes"])
    return len(SEED_SHARES) if isinstance(spec.objective, job.MaxDrop) else TARGET_SEEDS


def require_scorings(spec: JobSpec) -> None:
    """Check that each size of a front, and each of the user's genomes, will be scored.

    A search that ends before would not report it. Only new jobs are checked.

    Raises:
        InputError: The search has too few scorings; says how many suffice.
    """
    limit = policy_of(spec).search.max_evaluations
    if isinstance(spec.objective, job.Pareto) and limit < FRONT["sizes"]:
        raise InputError(
            "search.max_evaluations",
            f"must be at least {FRONT['sizes']}, one for each size of a front; got {limit}",
        )
    given, own = len(spec.search.seeds), own_seeds(spec)
    if given and limit < own + given:
        raise InputError(
            "search.max_evaluations",
            f"must be at least {own + given}, because each of the {given} genomes of search.seeds, or of the parent, "
            f"is scored beside up to {own} that the search starts from by itself; got {limit}. Raise it, or give fewer "
            "seeds",
        )


def _densities(seed: SeedSpec, space: SearchSpace, field: str, roots: Roots) -> list[float]:
    """Return the share of each matrix that a seed keeps."""
    if seed.ranks is not None:
        return _densities_of_ranks(seed.ranks, space, f"{field}.ranks")
    assert seed.path is not None
    file = resolve_path(seed.path, roots, f"{field}.path")
    return _densities_of_named(_read_ranks(file, f"{field}.path"), space, f"{field}.path")


def _densities_of_named(ranks: Mapping[str, int], space: SearchSpace, field: str) -> list[float]:
    for shape in space.matrices:
        if shape.name not in ranks:
            raise InputError(field, f"names no rank of {shape.name!r}; is it of another model?")
    return _densities_of_ranks([ranks[shape.name] for shape in space.matrices], space, field)


def _densities_of_ranks(ranks: Sequence[int], space: SearchSpace, field: str) -> list[float]:
    if len(ranks) != len(space.matrices):
        raise InputError(
            field,
            f"must be the ranks of {len(space.matrices)} matrices, got {len(ranks)}; are they of another model, or of "
            "a version of the program that took this one apart otherwise? Leave them out, or the parent they come from",
        )
    pairs = list(zip(space.matrices, ranks, strict=True))
    for shape, rank in pairs:
        if rank > min(shape.out_features, shape.in_features):
            raise InputError(
                field,
                f"has rank {rank} for {shape.name!r}, which is {shape.out_features} x {shape.in_features}; is it of "
                "another model?",
            )
    return [min(1.0, shape.density(rank)) for shape, rank in pairs]


def _read_ranks(file: Path, field: str) -> Mapping[str, int]:
    if not file.is_file():  # opening a named pipe would wait for its writer
        raise InputError(field, f"{file} is not a file; name one JSON file with `ranks`")
    if file.stat().st_size > MOST_SEED_BYTES:
        raise InputError(
            field, f"{file.name} has more than {MOST_SEED_BYTES:,} bytes; name one JSON file with `ranks`"
        )
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(field, f"cannot read {file.name} as JSON: {error}") from error
    for part in ("result", "summary"):  # a job of the API; the provenance of an export
        found = found.get(part, found) if isinstance(found, dict) else found
    ranks = found.get("ranks") if isinstance(found, dict) else None
    if not isinstance(ranks, dict) or not all(type(rank) is int and rank >= DENSE for rank in ranks.values()):
        raise InputError(
            field,
            f"{file.name} must hold `ranks`, matrix name → rank (-1: dense), as an export's ranksieve.json does",
        )
    return ranks
