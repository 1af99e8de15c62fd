"""Exported models with weights of 8 or 4 bits on disk, through compressed-tensors.

Factors, dense matrices, embeddings and output head are rounded; norms and biases stay. `transformers` turns the weights
back into the model's type when it loads the folder. So the copy saves disk and transfer, not memory or time.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, save_torch_state_dict
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from ranksieve.search.errors import InputError
from ranksieve.workers.cache.manifest import flush_files
from ranksieve.workers.export.reader import load_folder, read_values
from ranksieve.workers.machine.extras import require_extra
from ranksieve.workers.model.checks import WEIGHT_FILES
from ranksieve.workers.model.loading import weight_bytes

GROUP = 16
"""Numbers that share a scale at 4 bits. Ranks are multiples of it. At 8 bits a row shares one."""

FORMAT = "pack-quantized"

CARD = """## Bits

Weights are stored in {bits} bits by `compressed-tensors`, which has to be installed: {mb:,.1f} MB in all. They are
turned back into {dtype} when the folder is loaded. **The numbers above are those of the model before it was
rounded**: measure this one again, e.g. with `ranksieve evaluate`.

"""


def quantize(folder: Path, output: Path, bits: int) -> None:
    """Write an exported model with rounded weights.

    Scales are symmetric: the largest of a group, or of a row, sets them. At 4 bits, matrices whose width is no
    multiple of `GROUP` stay as they are.

    Args:
        folder: Exported folder; its Python file is not run.
        output: New folder; it appears whole or not at all.
        bits: Bits of a weight, 4 or 8.

    Raises:
        InputError: The folder is no export or quantized already, the output exists, or the bits are others.
        InfrastructureError: compressed-tensors is not installed.
    """
    require_extra("quantize", ["compressed_tensors"])
    if bits not in (4, 8):
        raise InputError("bits", f"expected 4 or 8, got {bits}")
    if output.exists():
        raise InputError("output", f"{output} exists already; give a folder to be made")
    model = load_folder(folder)
    values = read_values(folder / "config.json")
    if "ranksieve" not in values:
        raise InputError("model_dir", f"{folder} is no export of ranksieve")
    if "quantization_config" in values:
        raise InputError("model_dir", f"{folder} is quantized already; give the export that it was made from")
    scratch = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        shutil.copytree(folder, scratch, ignore=shutil.ignore_patterns("*.safetensors*"))
        _write(model, folder, scratch, bits)
        flush_files(scratch)
        scratch.rename(output)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(model: PreTrainedModel, folder: Path, output: Path, bits: int) -> None:
    """Write rounded weights, configuration and card."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, QuantizationScheme

    weights = QuantizationArgs(
        num_bits=bits,
        type="int",
        symmetric=True,
        **({"strategy": "channel"} if bits == 8 else {"strategy": "group", "group_size": GROUP}),
    )
    scheme = QuantizationScheme(targets=["Linear", "Embedding"], weights=weights, format=FORMAT)
    stored: dict[str, torch.Tensor] = {}
    for name, tensor in _tensors(folder):
        stored |= _rounded(model, name, tensor, scheme)
    save_torch_state_dict(stored, output, max_shard_size="5GB")
    config = QuantizationConfig(
        config_groups={"weights": scheme}, format=FORMAT, quantization_status="compressed"
    )
    file = output / "config.json"
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    values["quantization_config"] = config.model_dump(mode="json") | {"dequantize": True}
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    card = ModelCard((output / "README.md").read_text(encoding="utf-8"))
    before, heading, after = card.text.partition("## Not checked\n")
    described = CARD.format(
        bits=bits, mb=weight_bytes(output) / 1e6, dtype=str(model.dtype).removeprefix("torch.")
    )
    card.text = f"{before}{described}{heading}{after}"
    (output / "README.md").write_text(str(card), encoding="utf-8")


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield name and tensor of everything that is stored."""
    for file in sorted(folder.glob(WEIGHT_FILES)):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118, it is no mapping
                yield name, tensors.get_tensor(name)


def _rounded(model: PreTrainedModel, name: str, tensor: torch.Tensor, scheme: Any) -> dict[str, torch.Tensor]:
    """Return what is stored for a tensor: itself, or rounded numbers and scales."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization.utils import calculate_qparams

    module_name, _, part = name.rpartition(".")
    group = scheme.weights.group_size or tensor.shape[-1]
    if part != "weight" or not _is_map(model, module_name) or tensor.shape[-1] % group:
        return {name: tensor}
    grouped = tensor.float().reshape(*tensor.shape[:-1], -1, group)
    scale, _ = calculate_qparams(grouped.amin(-1), grouped.amax(-1), scheme.weights)
    compressor = BaseCompressor.get_value_from_registry(FORMAT)
    state = compressor.compress({"weight": tensor, "weight_scale": scale.to(tensor.dtype)}, scheme)
    return {f"{module_name}.{key}": value.contiguous() for key, value in state.items()}


def _is_map(model: PreTrainedModel, name: str) -> bool:
    """Return whether a module is a linear map or an embedding."""
    try:
        return isinstance(model.get_submodule(name), nn.Linear | nn.Embedding)
    except AttributeError:  # the architecture stores it under another name
        return False
