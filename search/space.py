"""The search space: which ranks every matrix may take and what each costs in parameters.

Knows nothing of tensors, losses or evolution. Shape letters: M matrices, L levels.

A *level* of a matrix is a rank, or dense. A *genome* holds one level index per matrix. What rank r costs depends
on how it is stored:

    pairs      two thin factors                            r·(O+D)
    pivoted    r of the rows, how the others follow from
               them, and the order of all                  r·(O+D-r) + O, or pairs where those are not dearer: r² ≤ O

Where a rank costs as much as the dense matrix, dense is the better choice: ranks stop below that break-even,
r* = O·D/(O+D) for pairs and nearly min(O, D) for pivoted, and the last level is dense.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from search.errors import InputError

DENSE = -1
"""The rank that means "keep the dense matrix"."""

Storage = Literal["pairs", "pivoted"]
"""How a matrix of low rank is stored; see `workers.lowrank_module` for the layers."""

Genome = tuple[int, ...]
"""One level index per matrix, in the order of `SearchSpace.matrices`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixShape:
    """One prunable weight matrix.

    Args:
        name: Dotted module name, unique in the model.
        out_features: Output width O.
        in_features: Input width D.
        layer: Index of the transformer block that holds it.
        kind: Its role in the block, e.g. `q_proj`.
    """

    name: str
    out_features: int
    in_features: int
    layer: int
    kind: str

    def __post_init__(self) -> None:
        if self.out_features < 1 or self.in_features < 1:
            raise InputError(
                "model", f"{self.name} must have positive widths, got {self.out_features}x{self.in_features}"
            )

    @property
    def dense_params(self) -> int:
        """Parameters of the dense matrix, O·D."""
        return self.out_features * self.in_features

    def price(self, rank: int, storage: Storage) -> int:
        """Numbers stored at `rank` (which may be `DENSE`); it rises with the rank."""
        if rank == DENSE:
            return self.dense_params
        if rank == 0:
            return 0
        saved = max(0, rank**2 - self.out_features) if storage == "pivoted" else 0
        return rank * (self.out_features + self.in_features) - saved

    def largest_rank(self, storage: Storage) -> int:
        """The last rank below break-even: it costs less than the dense matrix. May be 0."""
        ranks = range(min(self.out_features, self.in_features) + 1)
        return bisect_left(ranks, self.dense_params, key=lambda rank: self.price(rank, storage)) - 1


class SearchSpace:
    """All genomes over `matrices` on a grid of ranks.

    Args:
        matrices: The M matrices, in the order genomes use; at least one, names unique.
        rank_step: Ranks are multiples of this.
        storage: What ranks cost.

    Raises:
        InputError: No matrices, a repeated name, or a step below one.
    """

    def __init__(self, matrices: Sequence[MatrixShape], rank_step: int, storage: Storage = "pairs") -> None:
        if rank_step < 1:
            raise InputError("projection.rank_step", f"must be at least 1, got {rank_step}")
        if not matrices:
            raise InputError("model.include", "no matrix to prune; widen include or narrow exclude")
        if len({shape.name for shape in matrices}) != len(matrices):
            raise InputError("model.include", "two matrices have the same name")
        self.matrices = tuple(matrices)
        self.rank_step = rank_step
        self.storage: Storage = storage
        self.levels: tuple[tuple[int, ...], ...] = tuple(
            (*range(0, shape.largest_rank(storage) + 1, rank_step), DENSE) for shape in matrices
        )
        self.total_params = sum(shape.dense_params for shape in matrices)

    def __len__(self) -> int:
        return len(self.matrices)

    @cached_property
    def counts_M(self) -> NDArray[np.int64]:
        """How many levels each matrix has."""
        return np.array([len(levels) for levels in self.levels], dtype=np.int64)

    @cached_property
    def params_ML(self) -> NDArray[np.int64]:
        """Parameters per matrix and level; rows with fewer levels repeat their dense price."""
        table = np.empty((len(self), int(self.counts_M.max())), dtype=np.int64)
        for row, shape, levels in zip(table, self.matrices, self.levels, strict=True):
            row[:] = shape.dense_params
            row[: len(levels)] = [shape.price(rank, self.storage) for rank in levels]
        table.flags.writeable = False
        return table

    @cached_property
    def dense_genome(self) -> Genome:
        """Every matrix dense."""
        return tuple(len(levels) - 1 for levels in self.levels)

    def validate(self, genome: Sequence[int]) -> Genome:
        """Check that `genome` belongs to this space.

        Returns:
            The genome as a tuple.

        Raises:
            InputError: Wrong length, or a level that its matrix does not have.
        """
        if len(genome) != len(self):
            raise InputError("genome", f"must hold {len(self)} levels, one per matrix, got {len(genome)}")
        for shape, levels, level in zip(self.matrices, self.levels, genome, strict=True):
            if not 0 <= level < len(levels):
                raise InputError(
                    "genome", f"level of {shape.name} must be in [0, {len(levels) - 1}], got {level}"
                )
        return tuple(int(level) for level in genome)

    def ranks(self, genome: Genome) -> tuple[int, ...]:
        """The rank of every matrix, `DENSE` where it stays whole.

        Raises:
            InputError: The genome is not of this space.
        """
        genome = self.validate(genome)
        return tuple(levels[level] for levels, level in zip(self.levels, genome, strict=True))

    def params_at(self, index: int, level: int) -> int:
        """Parameters of matrix `index` at `level`."""
        return int(self.params_ML[index, level])

    def params(self, genome: Genome) -> int:
        """Parameters a valid genome keeps of the prunable matrices."""
        return int(self.params_ML[np.arange(len(self)), np.asarray(genome, dtype=np.int64)].sum())

    def kept_share(self, genome: Genome) -> float:
        """Share of the prunable parameters that a valid genome keeps."""
        return self.params(genome) / self.total_params

    def budget(self, share: float) -> int:
        """Most parameters a genome may keep at `share` of the prunable ones."""
        if not 0 <= share <= 1:
            raise InputError("objective.share", f"must be in [0, 1], got {share}")
        return int(share * self.total_params + 1e-6)  # 0.3 * 10 is a hair below 3
