"""Size of an export's weight files besides the pruned matrices, known in advance.

Embeddings, head, norms, biases, matrices that stay unchanged, and the headers of the safetensors format. For the
headers it is an upper bound: a matrix's number of tensors depends on its rank.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from ranksieve.search.space.matrix import MatrixShape

ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

ENTRY_BYTES = 96
"""Most header bytes of a tensor besides its name: dtype, shape and offsets of a dozen digits each."""

PREFIX_BYTES = 256
"""Bytes per file: the length of its header, its format, padding."""

LOW_RANK_SUFFIXES = ("down.weight", "up.weight")
"""The most tensors that one matrix becomes besides its bias; see `workers.model.layers`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Remainder:
    """Content of an export's weight files besides the matrices.

    Args:
        numbers: Stored in the working dtype.
        wide_numbers: Stored in the working dtype, or kept in float32.
        other_bytes: Bytes of tensors that are not floats.
        header_bytes: Upper bound of the headers.
    """

    numbers: int
    other_bytes: int
    header_bytes: int
    wide_numbers: int = 0

    def size_bytes(self, dtype: str) -> int:
        """Return an upper bound of the bytes in a working dtype."""
        wide_bytes = self.wide_numbers * ITEM_BYTES["float32"]
        return self.numbers * ITEM_BYTES[dtype] + wide_bytes + self.other_bytes + self.header_bytes

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
    names = [name for name, _ in rest]
    names += [f"{matrix.name}.{suffix}" for matrix in matrices for suffix in LOW_RANK_SUFFIXES]
    return Remainder(
        numbers=sum(count for name, count in floats.items() if not wide(name)),
        wide_numbers=sum(count for name, count in floats.items() if wide(name)),
        other_bytes=sum(others),
        header_bytes=PREFIX_BYTES + sum(ENTRY_BYTES + len(name.encode()) for name in names),
    )


def _kept_wide(model: PreTrainedModel) -> Callable[[str], bool]:
    """Return a test whether transformers may keep a tensor in float32."""
    parts = {*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())}
    return lambda name: any(part in name for part in parts)
