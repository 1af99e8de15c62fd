"""Exported models with weights of 8 or 4 bits on disk, through compressed-tensors.

Factors, dense matrices, embeddings and output head are rounded; norms and biases stay. `transformers` turns the weights
back into the model's type when it loads the folder. So the copy saves disk and transfer, not memory or time.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, save_torch_state_dict
from safetensors import safe_open
from transformers import PreTrainedModel

from ranksieve.search.errors import InputError
from ranksieve.workers.export.copies import copied, refuse_quantized, require_new
from ranksieve.workers.export.reader import load_folder
from ranksieve.workers.machine.extras import require_extra
from ranksieve.workers.model.checks import WEIGHT_FILES
from ranksieve.workers.model.loading import weight_bytes
from ranksieve.workers.model.rounding import (
    EXTRA,
    FORMAT,
    LIBRARIES,
    check_rounding,
    is_map,
    packed,
    scheme_of,
)

CARD = """## Bits

Weights are stored in {bits} bits by `compressed-tensors`, which has to be installed: {mb:,.1f} MB in all. They are
turned back into {dtype} when the folder is loaded. **The numbers above are those of the model before it was
rounded**: measure this one again, e.g. with `ranksieve evaluate`.

"""


def quantize(folder: Path, output: Path, bits: int) -> None:
    """Write an exported model with rounded weights.

    At 4 bits, matrices whose width is no multiple of a group stay as they are.

    Args:
        folder: Exported folder; its Python file is not run.
        output: New folder; it appears whole or not at all.
        bits: Bits of a weight, 4 or 8.

    Raises:
        InputError: The folder is no export or quantized already, its model cannot be rounded, the output exists, or
            the bits are others.
        InfrastructureError: compressed-tensors is not installed.
    """
    require_extra(EXTRA, LIBRARIES)
    if bits not in (4, 8):
        raise InputError("bits", f"expected 4 or 8, got {bits}")
    require_new(output)
    model = load_folder(folder)
    if getattr(model.config, "ranksieve", None) is None:
        raise InputError("model_dir", f"{folder} is no export of ranksieve")
    refuse_quantized(folder)
    check_rounding(model)
    with copied(folder, output, "*.safetensors*") as scratch:
        write_rounded(model, folder, scratch, bits)
        _describe(model, scratch, bits)


def write_rounded(model: PreTrainedModel, folder: Path, output: Path, bits: int) -> None:
    """Write the weights of an export in few bits, and say so in its configuration.

    Args:
        model: The export; only the classes of its modules are looked at.
        folder: Folder with its weights.
        output: Folder with its configuration, which may be the same one.
        bits: Bits of a weight.
    """
    from compressed_tensors.quantization import QuantizationConfig

    stored: dict[str, torch.Tensor] = {}
    for name, tensor in _tensors(folder):
        stored |= _stored(model, name, tensor, bits)
    for file in output.glob(f"{WEIGHT_FILES}*"):
        file.unlink()  # what was mapped from it stays readable
    save_torch_state_dict(stored, output, max_shard_size="5GB")
    config = QuantizationConfig(
        config_groups={"weights": scheme_of(bits)}, format=FORMAT, quantization_status="compressed"
    )
    file = output / "config.json"
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    values["quantization_config"] = config.model_dump(mode="json") | {"dequantize": True}
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _describe(model: PreTrainedModel, output: Path, bits: int) -> None:
    """Say in the card of a copy that its numbers are of the model before."""
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


def _stored(model: PreTrainedModel, name: str, tensor: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    """Return what is stored for a tensor: itself, or rounded numbers and scales."""
    module_name, _, part = name.rpartition(".")
    if part != "weight" or not _names_map(model, module_name):
        return {name: tensor}
    return {f"{module_name}.{key}": value for key, value in packed(tensor, bits).items()}


def _names_map(model: PreTrainedModel, name: str) -> bool:
    """Return whether a module is a linear map or an embedding."""
    try:
        return is_map(model.get_submodule(name))
    except AttributeError:  # the architecture stores it under another name
        return False
