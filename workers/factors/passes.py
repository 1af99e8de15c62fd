"""Division of the calibration into passes, and of a pass into shards."""

from collections.abc import Sequence

from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.factors.grams import BYTES_PER_ENTRY, gram_numbers

SHARD_TOKENS = {"cpu": 4096, "cuda": 131_072}
"""Least padded tokens of a shard, by device: its sums then take less time to write than to compute."""


def gram_width(matrix: MatrixShape) -> int:
    """Return K of a matrix, its narrow side."""
    return min(matrix.in_features, matrix.out_features)


def passes(matrices: Sequence[MatrixShape], gram_bytes: int) -> list[tuple[MatrixShape, ...]]:
    """Split the matrices into groups whose Grams fit into memory together.

    Each group is gathered in a pass of its own.

    The Grams of all matrices of a 70 B model would take more memory than the model.

    Args:
        matrices: In model order; neighbours share a group.
        gram_bytes: Memory for Grams; a matrix that needs more gets a group of its own.
    """
    groups: list[list[MatrixShape]] = []
    free = 0
    for matrix in matrices:
        size = 2 * gram_numbers(gram_width(matrix)) * BYTES_PER_ENTRY
        if not groups or size > free:
            groups.append([])
            free = gram_bytes
        groups[-1].append(matrix)
        free -= size
    return [tuple(group) for group in groups]


def shard_count(tokens: float, batches: int, device: str) -> int:
    """Return the number of calibration shards, which depends on the job alone.

    Args:
        tokens: Tokens of all batches, with padding.
        batches: Number of batches.
        device: `cpu` or `cuda`.
    """
    return max(1, min(batches, int(tokens) // SHARD_TOKENS[device]))


def shard_of(index: int, shards: int, batches: int) -> range:
    """Return the batches of one shard; shards differ by at most one batch."""
    return range(index * batches // shards, (index + 1) * batches // shards)
