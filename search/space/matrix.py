"""A prunable matrix: its possible ranks, and the cost of each.

A matrix of rank r is a pair of thin factors, r·(O+D) numbers. From the break-even r* = O·D/(O+D) on, dense is the
better choice, so ranks stop below it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ranksieve.search.errors import InputError

DENSE = -1
"""The rank that means "keep the dense matrix"."""


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

    @property
    def largest_rank(self) -> int:
        """Largest rank below break-even, cheaper than dense; may be 0."""
        return (self.dense_params - 1) // (self.out_features + self.in_features)

    def price(self, rank: int) -> int:
        """Return the number of parameters at `rank` (which may be `DENSE`)."""
        if rank == DENSE:
            return self.dense_params
        return rank * (self.out_features + self.in_features)

    def density(self, rank: int) -> float:
        """Return the share of the dense parameters that `rank` keeps."""
        return self.price(rank) / self.dense_params

    def grid(self, rank_step: int) -> tuple[int, ...]:
        """Return the unconstrained ranks: multiples of the step, then dense."""
        return (*range(0, self.largest_rank + 1, rank_step), DENSE)


Price = Callable[[MatrixShape, int], int]
"""Cost of a rank of a matrix, in the unit of the budgets."""
