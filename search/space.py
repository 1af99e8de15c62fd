"""The search space: which ranks every matrix may take and what each costs in parameters.

Knows nothing of tensors, losses or evolution. Shape letters: M matrices, L levels.

A *level* of a matrix is a rank, or dense. A *genome* holds one level index per matrix. Two thin factors of
rank r hold r·(O+D) parameters, so from the break-even rank r* = O·D/(O+D) on the dense matrix is the smaller
one: ranks stop below r* and the last level is dense.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from search.errors import InputError

DENSE = -1
"""The rank that means "keep the dense matrix"."""

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

    @property
    def rank_params(self) -> int:
        """Parameters of one rank, O+D."""
        return self.out_features + self.in_features

    def price(self, rank: int) -> int:
        """Parameters kept at `rank` (which may be `DENSE`)."""
        return self.dense_params if rank == DENSE else rank * self.rank_params


def _levels(shape: MatrixShape, rank_step: int) -> tuple[int, ...]:
    largest = (shape.dense_params - 1) // shape.rank_params  # r·(O+D) < O·D, strictly
    return (*range(0, largest + 1, rank_step), DENSE)


class SearchSpace:
    """All genomes over `matrices` on a grid of ranks.

    Args:
        matrices: The M matrices, in the order genomes use; at least one, names unique.
        rank_step: Ranks are multiples of this.

    Raises:
        InputError: No matrices, a repeated name, or a step below one.
    """

    def __init__(self, matrices: Sequence[MatrixShape], rank_step: int) -> None:
        if rank_step < 1:
            raise InputError("projection.rank_step", f"must be at least 1, got {rank_step}")
        if not matrices:
            raise InputError("model.include", "no matrix to prune; widen include or narrow exclude")
        if len({shape.name for shape in matrices}) != len(matrices):
            raise InputError("model.include", "two matrices have the same name")
        self.matrices = tuple(matrices)
        self.rank_step = rank_step
        self.levels: tuple[tuple[int, ...], ...] = tuple(_levels(shape, rank_step) for shape in matrices)
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
            row[: len(levels)] = [shape.price(rank) for rank in levels]
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
        return self.matrices[index].price(self.levels[index][level])

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
