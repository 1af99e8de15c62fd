"""The search space: genes, their levels, and the cost of a genome.

Knows nothing of tensors, losses or evolution. Shape letters: M matrices, G genes, L levels.

A *gene* is one choice of the search: the rank of a matrix, or of several tied ones together. A *level* of a gene is a
rank for each of its matrices. The last level is dense, unless constraints forbid it. A *genome* holds one level index
per gene.

A matrix with a single possible rank is settled: it has no gene, but its cost counts.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ranksieve.search.errors import InputError
from ranksieve.search.space.genes import Tie, make_genes
from ranksieve.search.space.matrix import DENSE, MatrixShape, Price

Genome = tuple[int, ...]
"""One level index per gene, in the order of `SearchSpace.genes`."""


class SearchSpace:
    """All genomes over `matrices` on a grid of ranks.

    Args:
        matrices: The M matrices; at least one, with unique names.
        rank_step: Ranks are multiples of this.
        allowed: Allowed ranks per matrix; by default its grid. Allowed ranks off the grid are added.
        ties: Matrices that share a gene; each matrix is in at most one tie.
        price: Cost of ranks in the unit of the budget; parameters by default.
        absent: Matrices that the whole model has and this one lacks. Shares are of the whole model.

    Raises:
        InputError: No matrices, a repeated name, a step below one, tied matrices without a common level, or
            nothing to choose.
    """

    def __init__(
        self,
        matrices: Sequence[MatrixShape],
        rank_step: int,
        *,
        allowed: Sequence[Sequence[int]] | None = None,
        ties: Sequence[Tie] = (),
        price: Price | None = None,
        absent: Sequence[MatrixShape] = (),
    ) -> None:
        if rank_step < 1:
            raise InputError("rank_step", f"must be at least 1, got {rank_step}")
        if not matrices:
            raise InputError("model.include", "no matrix to prune; widen include or narrow exclude")
        if len({shape.name for shape in matrices}) != len(matrices):
            raise InputError("model.include", "two matrices have the same name")
        self.matrices = tuple(matrices)
        self.rank_step = rank_step
        self._price: Price = price or MatrixShape.price
        allowed = allowed or [shape.grid(rank_step) for shape in matrices]
        genes = make_genes(self.matrices, rank_step, allowed, ties, self._cost)
        self.genes = tuple(gene for gene in genes if len(gene.levels) > 1)
        if not self.genes:
            raise InputError("search.constraints", "leave every matrix a single rank: nothing to search")
        settled = [gene for gene in genes if len(gene.levels) == 1]
        self._settled = {
            i: rank for gene in settled for i, rank in zip(gene.members, gene.levels[0], strict=True)
        }
        whole = (*self.matrices, *absent)
        self.total_params = sum(shape.dense_params for shape in whole)
        self.total_cost = sum(self._price(shape, DENSE) for shape in whole)

    def __len__(self) -> int:
        return len(self.genes)

    def _cost(self, members: Iterable[int], ranks: Iterable[int]) -> int:
        return sum(self._price(self.matrices[i], rank) for i, rank in zip(members, ranks, strict=True))

    def _params(self, members: Iterable[int], ranks: Iterable[int]) -> int:
        return sum(self.matrices[i].price(rank) for i, rank in zip(members, ranks, strict=True))

    @cached_property
    def counts_G(self) -> NDArray[np.int64]:
        """Number of levels of each gene."""
        return np.array([len(gene.levels) for gene in self.genes], dtype=np.int64)

    @cached_property
    def params_GL(self) -> NDArray[np.int64]:
        """Parameters per gene and level; shorter rows repeat their last value."""
        return self._table(self._params)

    @cached_property
    def cost_GL(self) -> NDArray[np.int64]:
        """Cost per gene and level, rising; shorter rows repeat their last value."""
        return self._table(self._cost)

    def _table(self, amount: Callable[[Iterable[int], Iterable[int]], int]) -> NDArray[np.int64]:
        table = np.empty((len(self), int(self.counts_G.max())), dtype=np.int64)
        for row, gene in zip(table, self.genes, strict=True):
            amounts = [amount(gene.members, ranks) for ranks in gene.levels]
            row[:] = amounts[-1]
            row[: len(amounts)] = amounts
        table.flags.writeable = False
        return table

    @cached_property
    def _gene_M(self) -> NDArray[np.int64]:
        """Gene that decides each matrix; arbitrary for settled matrices."""
        gene_M = np.zeros(len(self.matrices), dtype=np.int64)
        for i, gene in enumerate(self.genes):
            gene_M[list(gene.members)] = i
        return gene_M

    @cached_property
    def _ranks_ML(self) -> NDArray[np.int64]:
        """Rank of each matrix by level; shorter rows repeat their last value."""
        ranks_ML = np.empty((len(self.matrices), int(self.counts_G.max())), dtype=np.int64)
        for i, rank in self._settled.items():
            ranks_ML[i] = rank
        for gene in self.genes:
            members = list(gene.members)
            ranks_ML[members] = np.array(gene.levels[-1])[:, None]
            ranks_ML[members, : len(gene.levels)] = np.array(gene.levels).T
        return ranks_ML

    @cached_property
    def sublayers(self) -> tuple[tuple[int, ...], ...]:
        """Genes of each removable sublayer, attention or feed-forward.

        All matrices of a removable sublayer can be at rank 0, and none shares its gene with a matrix elsewhere.
        """
        members: dict[tuple[int, str], set[int]] = {}
        for i, shape in enumerate(self.matrices):
            if module := shape.kind.rpartition(".")[0]:
                members.setdefault((shape.layer, module), set()).add(i)
        found = []
        for inside in members.values():
            indices = sorted({int(self._gene_M[i]) for i in inside if i not in self._settled})
            genes = [self.genes[i] for i in indices]
            settled_at_0 = all(self._settled.get(i, 0) == 0 for i in inside)
            if (
                genes
                and settled_at_0
                and all(inside.issuperset(gene.members) and not any(gene.levels[0]) for gene in genes)
            ):
                found.append(tuple(indices))
        return tuple(found)

    @cached_property
    def largest_ranks(self) -> tuple[int, ...]:
        """Largest rank of each matrix at any level; dense does not count."""
        return tuple(np.maximum(self._ranks_ML.max(axis=1), 0).tolist())

    @cached_property
    def dense_cost_G(self) -> NDArray[np.int64]:
        """Cost of each gene's matrices if all were dense; at least 1."""
        dense = [max(1, self._cost(gene.members, [DENSE] * len(gene.members))) for gene in self.genes]
        return np.array(dense, dtype=np.int64)

    @cached_property
    def _settled_cost(self) -> int:
        return self._cost(self._settled, self._settled.values())

    @cached_property
    def _settled_params(self) -> int:
        return self._params(self._settled, self._settled.values())

    @cached_property
    def smallest_genome(self) -> Genome:
        """The genome with every gene at its cheapest level."""
        return (0,) * len(self)

    @cached_property
    def largest_genome(self) -> Genome:
        """The genome with every gene at its dearest level."""
        return tuple((self.counts_G - 1).tolist())

    def validate(self, genome: Sequence[int]) -> Genome:
        """Check that `genome` belongs to this space.

        Returns:
            The genome as a tuple.

        Raises:
            InputError: The length is wrong, or a gene has no such level.
        """
        if len(genome) != len(self):
            raise InputError("genome", f"must hold {len(self)} levels, one per gene, got {len(genome)}")
        levels_G = np.asarray(genome, dtype=np.int64)
        for i in np.flatnonzero((levels_G < 0) | (levels_G >= self.counts_G)):
            names = ", ".join(self.matrices[member].name for member in self.genes[i].members)
            raise InputError(
                "genome", f"level of {names} must be in [0, {self.counts_G[i] - 1}], got {levels_G[i]}"
            )
        return tuple(levels_G.tolist())

    def is_dense(self, genome: Genome) -> bool:
        """Return whether a genome is the dense model."""
        return set(self.ranks(genome)) <= {DENSE}

    def ranks(self, genome: Genome) -> tuple[int, ...]:
        """Return the rank of every matrix, `DENSE` where it stays dense.

        Raises:
            InputError: The genome does not belong to this space.
        """
        levels_G = np.array(self.validate(genome))
        ranks_M = self._ranks_ML[np.arange(len(self.matrices)), levels_G[self._gene_M]]
        return tuple(ranks_M.tolist())

    def cost_at(self, index: int, level: int) -> int:
        """Return the cost of gene `index` at `level`."""
        return int(self.cost_GL[index, level])

    def cost(self, genome: ArrayLike) -> int:
        """Return the cost of a valid genome, settled matrices included."""
        return self._settled_cost + _picked(self.cost_GL, genome)

    def params(self, genome: ArrayLike) -> int:
        """Return the prunable parameters that a valid genome keeps."""
        return self._settled_params + _picked(self.params_GL, genome)

    def kept_share(self, genome: Genome) -> float:
        """Return the share of the prunable parameters that a valid genome keeps."""
        return self.params(genome) / self.total_params

    def cost_share(self, genome: Genome) -> float:
        """Return the share of the dense cost that a valid genome takes."""
        return self.cost(genome) / self.total_cost

    @cached_property
    def smallest_cost(self) -> int:
        """Cost of the smallest genome."""
        return self.cost(self.smallest_genome)

    @property
    def smallest_share(self) -> float:
        """Cost of the smallest genome as a share of the dense cost."""
        return self.smallest_cost / self.total_cost

    @property
    def largest_share(self) -> float:
        """Cost of the largest genome as a share of the dense cost."""
        return self.cost_share(self.largest_genome)

    def budget(self, share: float) -> int:
        """Return the largest cost of a genome at `share` of the dense cost.

        It is never less than the cost of the smallest genome.
        """
        if not 0 <= share <= 1:
            raise InputError("objective.share", f"must be in [0, 1], got {share}")
        return max(self._whole(share), self.smallest_cost)

    def reaches(self, share: float) -> bool:
        """Return whether any genome costs at most `share` of the dense cost."""
        return self.smallest_cost <= self._whole(share)

    def _whole(self, share: float) -> int:
        return int(share * self.total_cost + 1e-6)  # 0.3 * 10 is a hair below 3


def _picked(table_GL: NDArray[np.int64], genome: ArrayLike) -> int:
    return int(table_GL[np.arange(len(table_GL)), np.asarray(genome, dtype=np.int64)].sum())
