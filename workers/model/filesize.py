"""Size of an export's weight files, known in advance.

Of each pruned matrix at any rank, and of the rest: embeddings, head, norms, biases, matrices that stay unchanged, and
the headers of the safetensors format. For the headers it is an upper bound: a matrix's number of tensors depends on its
rank.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.workers.model.rounding import is_map
from ranksieve.workers.types.plan import GROUP

ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

ENTRY_BYTES = 96
"""Most header bytes of a tensor besides its name: dtype, shape and offsets of a dozen digits each."""

PREFIX_BYTES = 256
"""Bytes per file: the length of its header, its format, padding."""

LOW_RANK_SUFFIXES = ("down.weight", "up.weight")
"""The most tensors that one matrix becomes besides its bias; see `workers.model.layers`."""

ROUNDED_SUFFIXES = ("weight_packed", "weight_scale", "weight_shape")
"""Tensors that a rounded weight becomes."""

SHAPE_BYTES = 16
"""Bytes of `weight_shape`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """Form of an export's numbers: their dtype, and the bits of rounded maps."""

    dtype: str
    bits: int | None = None

    @property
    def item_bytes(self) -> int:
        """Bytes of a number that is not rounded, or of a scale."""
        return ITEM_BYTES[self.dtype]

    def matrix_bytes(self, matrix: MatrixShape, rank: int) -> int:
        """Return the bytes of a pruned matrix at a rank, or dense.

        Where a width of a dense matrix is no multiple of the group, it is counted as not rounded.
        """
        if self.bits is None:
            return matrix.price(rank) * self.item_bytes
        if rank == DENSE:
            divides = matrix.out_features % GROUP == 0
            rows, width = matrix.out_features, matrix.in_features
            return self.map_bytes(rows, width) if divides else matrix.dense_params * self.item_bytes
        if rank == 0:
            return 0
        return self.map_bytes(matrix.out_features, rank) + self.map_bytes(rank, matrix.in_features)

    def map_bytes(self, rows: int, width: int) -> int:
        """Return the bytes of a linear map or an embedding."""
        if self.bits is None or width % GROUP:
            return rows * width * self.item_bytes
        return rows * width * self.bits // 8 + rows * width // GROUP * self.item_bytes + SHAPE_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class Remainder:
    """Content of an export's weight files besides the matrices.

    Args:
        numbers: Stored in the working dtype.
        wide_numbers: Stored in the working dtype, or kept in float32.
        other_bytes: Bytes of tensors that are not floats.
        header_bytes: Upper bound of the headers.
        maps: Rows and width of the maps and embeddings among `numbers`, which may be rounded.
        rounded_header_bytes: Upper bound of the headers if they are.
    """

    numbers: int
    other_bytes: int
    header_bytes: int
    wide_numbers: int = 0
    maps: tuple[tuple[int, int], ...] = ()
    rounded_header_bytes: int = 0

    def size_bytes(self, stored: Storage) -> int:
        """Return an upper bound of the bytes."""
        maps = sum(stored.map_bytes(rows, width) for rows, width in self.maps)
        others = self.numbers - sum(rows * width for rows, width in self.maps)
        wide_bytes = self.wide_numbers * ITEM_BYTES["float32"]
        header_bytes = self.header_bytes if stored.bits is None else self.rounded_header_bytes
        return maps + others * stored.item_bytes + wide_bytes + self.other_bytes + header_bytes

    def dense_bytes(self, dtype: str) -> int:
        """Return a lower bound of the bytes in the dense model."""
        return (self.numbers + self.wide_numbers) * ITEM_BYTES[dtype] + self.other_bytes


def remainder(model: PreTrainedModel, matrices: Sequence[MatrixShape]) -> Remainder:
    """Return the content of an export besides the listed matrices.

    Tied weights count once, as they are stored.

    Args:
        model: Its tensors may be on the meta device.
        matrices: The pruned matrices.
    """
    tensors: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        tensors.setdefault(id(tensor), (name, tensor))
    pruned = {f"{matrix.name}.weight" for matrix in matrices}
    rest = [(name, tensor) for name, tensor in tensors.values() if name not in pruned]
    wide = _kept_wide(model)
    floats = {name: tensor.numel() for name, tensor in rest if tensor.is_floating_point()}
    others = [tensor.nbytes for _, tensor in rest if not tensor.is_floating_point()]
    maps = {
        name: tensor for name, tensor in rest if name in floats and not wide(name) and _is_map(model, name)
    }
    names = [name for name, _ in rest]
    rounded = [name for name in names if name not in maps]
    rounded += [f"{name}.{suffix}" for name in maps for suffix in ROUNDED_SUFFIXES]
    rounded += [
        f"{matrix.name}.down.{suffix}" for matrix in matrices for suffix in ROUNDED_SUFFIXES for _ in range(2)
    ]
    names += [f"{matrix.name}.{suffix}" for matrix in matrices for suffix in LOW_RANK_SUFFIXES]
    return Remainder(
        numbers=sum(count for name, count in floats.items() if not wide(name)),
        wide_numbers=sum(count for name, count in floats.items() if wide(name)),
        other_bytes=sum(others),
        header_bytes=_header_bytes(names),
        maps=tuple((tensor.shape[0], tensor.shape[1]) for tensor in maps.values()),
        rounded_header_bytes=_header_bytes(rounded),
    )


def _header_bytes(names: Sequence[str]) -> int:
    return PREFIX_BYTES + sum(ENTRY_BYTES + len(name.encode()) for name in names)


def _is_map(model: PreTrainedModel, name: str) -> bool:
    """Return whether a tensor is the weight of a linear map or an embedding."""
    module, _, part = name.rpartition(".")
    return part == "weight" and is_map(model.get_submodule(module))


def _kept_wide(model: PreTrainedModel) -> Callable[[str], bool]:
    """Return a test whether transformers may keep a tensor in float32."""
    parts = {*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())}
    return lambda name: any(part in name for part in parts)
