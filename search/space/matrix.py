"""A prunable matrix: the ranks it may take, and what each costs, which depends on how it is stored.

    pairs      two thin factors                            r·(O+D)
    pivoted    r of the rows, how the others follow from
               them, and the order of all                  r·(O+D-r) + O, or pairs where those are not dearer: r² ≤ O

Where a rank costs as much as the dense matrix, dense is the better choice: ranks stop below that break-even,
r* = O·D/(O+D) for pairs and nearly min(O, D) for pivoted.
"""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ranksieve.search.errors import InputError

DENSE = -1
"""The rank that means "keep the dense matrix"."""

INDEX_BYTES = 4
"""Of an entry of the order that the pivoted storage keeps."""

Storage = Literal["pairs", "pivoted"]
"""How a matrix of low rank is stored; see `workers.model.layers` for the layers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixShape:
    """One prunable weight matrix.

    Args:
        name: Dotted module name, unique in the model.
        out_features: Output width O.
        in_features: Input width D.
        layer: Index of the transformer block that holds it.
        kind: Its role in the block, e.g. `self_attn.q_proj`.
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

    def stored_bytes(self, rank: int, storage: Storage, item_bytes: int) -> int:
        """Bytes of those numbers, `item_bytes` each but for the order of the rows."""
        pivoted = storage == "pivoted" and rank**2 > self.out_features
        indices = self.out_features if pivoted else 0
        return (self.price(rank, storage) - indices) * item_bytes + indices * INDEX_BYTES

    def density(self, rank: int, storage: Storage) -> float:
        """Share of the dense parameters that `rank` keeps."""
        return self.price(rank, storage) / self.dense_params

    def largest_rank(self, storage: Storage) -> int:
        """The last rank below break-even: it costs less than the dense matrix. May be 0."""
        ranks = range(min(self.out_features, self.in_features) + 1)
        return bisect_left(ranks, self.dense_params, key=lambda rank: self.price(rank, storage)) - 1

    def grid(self, rank_step: int, storage: Storage) -> tuple[int, ...]:
        """Its ranks where nothing constrains them, cheapest first: multiples of the step, then dense."""
        return (*range(0, self.largest_rank(storage) + 1, rank_step), DENSE)


Price = Callable[[MatrixShape, int], int]
"""What a rank of a matrix costs, in the unit that budgets are in."""
