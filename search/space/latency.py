"""Time that matrices take by their ranks: tables of measured nanoseconds.

Unlike a price in parameters, a price in time need not rise with the rank. Measurements are noisy, and the dense
matrix, one product instead of two, may be faster than ranks that store less.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from ranksieve.search.errors import InputError
from ranksieve.search.space.matrix import DENSE, MatrixShape


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """Time of a matrix of one shape at each rank, beyond its time at rank 0.

    Args:
        ranks: Measured ranks, rising from 0.
        nanoseconds: Times of these ranks, from 0, never falling.
        dense_nanoseconds: Time of the dense matrix.
        matrices: Names of the matrices that have this shape.
    """

    ranks: tuple[int, ...]
    nanoseconds: tuple[int, ...]
    dense_nanoseconds: int
    matrices: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.ranks[:1] != (0,) or list(self.ranks) != sorted(set(self.ranks)):
            raise InputError("latency", f"ranks must rise from 0, got {list(self.ranks)}")
        if len(self.nanoseconds) != len(self.ranks):
            raise InputError(
                "latency", f"need one time per rank, {len(self.ranks)}, got {len(self.nanoseconds)}"
            )
        falls = list(self.nanoseconds) != sorted(self.nanoseconds)
        if self.nanoseconds[0] != 0 or falls or self.dense_nanoseconds < 0:
            raise InputError(
                "latency", f"nanoseconds must rise from 0, got {[*self.nanoseconds, self.dense_nanoseconds]}"
            )

    def at(self, rank: int) -> int:
        """Return the nanoseconds at a rank, which may be `DENSE`.

        Ranks between two measured ones are interpolated linearly.

        Raises:
            InputError: The rank is larger than all measured ones.
        """
        if rank == DENSE:
            return self.dense_nanoseconds
        if rank > self.ranks[-1]:
            raise InputError("latency", f"rank must be at most {self.ranks[-1]}, got {rank}")
        above = bisect_right(self.ranks, rank)
        low, spent = self.ranks[above - 1], self.nanoseconds[above - 1]
        if rank == low:
            return spent
        high, more = self.ranks[above], self.nanoseconds[above]
        return spent + (more - spent) * (rank - low) // (high - low)


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyTable:
    """Times of a forward pass: prunable matrices by rank, and everything else.

    Args:
        curves: Curves of disjoint sets of matrices.
        other_nanoseconds: Time of a forward pass without any prunable matrix.
    """

    curves: tuple[Curve, ...]
    other_nanoseconds: int
    _by_name: dict[str, Curve] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_name = {name: curve for curve in self.curves for name in curve.matrices}
        object.__setattr__(self, "_by_name", by_name)

    def price(self, shape: MatrixShape, rank: int) -> int:
        """Return the nanoseconds of a matrix at a rank.

        Raises:
            InputError: The table has no such matrix.
        """
        curve = self._by_name.get(shape.name)
        if curve is None:
            raise InputError(
                "latency", f"{shape.name} was not measured; the table may belong to another model"
            )
        return curve.at(rank)

    def nanoseconds(self, matrices: Sequence[MatrixShape], ranks: Sequence[int]) -> int:
        """Return the nanoseconds of a forward pass at these ranks."""
        prices = (self.price(shape, rank) for shape, rank in zip(matrices, ranks, strict=True))
        return self.other_nanoseconds + sum(prices)

    @property
    def dense_nanoseconds(self) -> int:
        """Nanoseconds of a forward pass of the dense model."""
        dense = (curve.dense_nanoseconds * len(curve.matrices) for curve in self.curves)
        return self.other_nanoseconds + sum(dense)


def isotonic(values: Sequence[float]) -> list[float]:
    """Return the never falling values nearest to these in the mean square.

    Times of rising ranks rise, except for noise. Taken as measured, one lucky rank would look cheaper than those
    below it. A space that keeps no level as dear as a higher one would lose all of those. Pooling averages noise that
    runs against the order. Of ranks that take the same time, the largest is left.

    Source: the pool-adjacent-violators algorithm, Ayer et al. 1955.
    """
    pools: list[tuple[float, int]] = []  # mean, count
    for value in values:
        mean, count = float(value), 1
        while pools and pools[-1][0] > mean:
            before, many = pools.pop()
            mean, count = (mean * count + before * many) / (count + many), count + many
        pools.append((mean, count))
    return [mean for mean, count in pools for _ in range(count)]
