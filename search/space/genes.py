"""Genes: choices of the search, and their levels.

Tied matrices share a *density*, the share of its parameters that a matrix keeps, each rounded down to its own ranks.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ranksieve.search.errors import InputError
from ranksieve.search.space.matrix import DENSE, MatrixShape

Cost = Callable[[Iterable[int], Iterable[int]], int]
"""Cost of some matrices, by index, at their ranks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tie:
    """Indices of matrices that share a gene, and the job file's field that ties them."""

    members: tuple[int, ...]
    field: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Gene:
    """One choice of the search.

    Args:
        members: Indices of the matrices that it decides.
        levels: The rank of every member at each level, the cheapest level first.
        layer: Layer of the first member.
        kind: Role of the members in the block.
    """

    members: tuple[int, ...]
    levels: tuple[tuple[int, ...], ...]
    layer: int
    kind: str

    def is_dense(self, level: int) -> bool:
        """Return whether the gene's matrices are dense at a level."""
        return DENSE in self.levels[level]


def make_genes(
    matrices: Sequence[MatrixShape],
    rank_step: int,
    allowed: Sequence[Sequence[int]],
    ties: Sequence[Tie],
    cost: Cost,
) -> list[Gene]:
    """Return the genes of tied and untied matrices, in order of their first members.

    A gene has the levels of a common density at which all its ranks are allowed, without those that cost as much as a
    higher level.

    Args:
        matrices: All matrices.
        rank_step: Ranks are multiples of this.
        allowed: Allowed ranks per matrix, which may be off the grid.
        ties: Matrices that share a gene.
        cost: Cost of ranks.

    Raises:
        InputError: Tied matrices have no common level.
    """
    ladders = [
        _ladder(shape, {*shape.grid(rank_step), *ranks})
        for shape, ranks in zip(matrices, allowed, strict=True)
    ]
    genes = []
    for tie in _with_singles(ties, len(matrices)):
        shapes = [matrices[i] for i in tie.members]
        own = [ladders[i] for i in tie.members]
        levels: list[tuple[int, ...]] = []
        for density in sorted({density for densities, _ in own for density in densities}):
            ranks = tuple(ranks[bisect_right(densities, density) - 1] for densities, ranks in own)
            if all(rank in allowed[i] for i, rank in zip(tie.members, ranks, strict=True)):
                levels.append(ranks)
        if not levels:
            names = ", ".join(shape.name for shape in shapes)
            raise InputError(
                tie.field,
                f"{names} are tied, but search.constraints allow them no common density; "
                "widen their bounds or untie them",
            )
        genes.append(
            Gene(
                members=tie.members,
                levels=tuple(_worth_their_cost(tie.members, levels, cost)),
                layer=shapes[0].layer,
                kind="+".join(dict.fromkeys(shape.kind for shape in shapes)),
            )
        )
    return genes


def _ladder(shape: MatrixShape, ranks: set[int]) -> tuple[list[float], list[int]]:
    """Return the densities and ranks of a matrix, ascending."""
    pairs = sorted((shape.density(rank), rank) for rank in ranks)
    return [density for density, _ in pairs], [rank for _, rank in pairs]


def _worth_their_cost(
    members: tuple[int, ...], levels: Sequence[tuple[int, ...]], cost: Cost
) -> list[tuple[int, ...]]:
    """Drop levels that cost as much as a higher one."""
    kept: list[tuple[int, ...]] = []
    above = np.inf
    for ranks in reversed(levels):
        if (price := cost(members, ranks)) < above:
            kept.append(ranks)
            above = price
    return kept[::-1]


def _with_singles(ties: Sequence[Tie], count: int) -> list[Tie]:
    """Return the ties and all untied matrices, in order of first members."""
    tied = {i for tie in ties for i in tie.members}
    singles = [Tie(members=(i,), field="search.constraints") for i in range(count) if i not in tied]
    return sorted((*ties, *singles), key=lambda tie: tie.members[0])
