"""Exported models multiplied out into the architecture of the dense model.

Any tool loads that. Ranks stay as they are, at the size of dense matrices; removed sublayers become zeros.

Legend: O output width, D input width, E experts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import ModelCard
from torch import nn
from transformers import AutoConfig, PreTrainedModel

from ranksieve.search.errors import InputError
from ranksieve.workers.export.copies import copied, refuse_quantized, require_new
from ranksieve.workers.export.reader import OWN_TYPE, load_folder, read_values
from ranksieve.workers.model.layers import LowRankLinear

OWN_FILES = ("*.safetensors*", "config.json", "modeling_ranksieve.py")

USE = """## Use

This folder holds the low-rank matrices multiplied out, in the architecture of the dense model: any tool that loads
that one loads this one, without code of the folder and in its own kernels (vLLM, SGLang, converters to GGUF or MLX). It
answers like the low-rank folder. Blocks that were cut stay away, but what is left is as large and as slow as in the
dense model; the low-rank folder is smaller.

"""


def multiply_out(folder: Path, output: Path) -> None:
    """Write an exported model in the architecture of its dense model.

    Products are computed in float32 and rounded to the model's type once.

    Args:
        folder: Exported folder; its Python file is not run.
        output: New folder; it appears whole or not at all.

    Raises:
        InputError: The folder is no export or quantized, or its output exists.
    """
    require_new(output)
    model = load_folder(folder)
    recipe = getattr(model.config, "ranksieve", None)
    if recipe is None:
        raise InputError("model_dir", f"{folder} is no export of ranksieve; it is dense already")
    refuse_quantized(folder)
    stock = _stock(folder, recipe["base_class"])
    stock.load_state_dict(_weights(model, stock, recipe), assign=True)
    stock.tie_weights()
    stock.generation_config = model.generation_config
    with copied(folder, output, *OWN_FILES) as scratch:
        stock.save_pretrained(scratch)
        _describe(scratch / "README.md")


def _stock(folder: Path, base_class: str) -> PreTrainedModel:
    """Return the dense architecture, empty."""
    values = read_values(folder / "config.json")
    for name in ("auto_map", "ranksieve"):
        del values[name]
    values |= {"model_type": values["model_type"].removeprefix(OWN_TYPE), "architectures": [base_class]}
    with torch.device("meta"):
        model: PreTrainedModel = getattr(transformers, base_class)(AutoConfig.for_model(**values))
    return model


def _weights(
    model: PreTrainedModel, stock: PreTrainedModel, recipe: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Return the weights of the dense architecture."""
    state = model.state_dict()
    inside = tuple(f"{name}." for name in (*recipe["ranks"], *recipe["experts"]))
    weights = {name: tensor for name, tensor in state.items() if not name.startswith(inside)}
    for name in recipe["ranks"]:
        if not name.startswith(tuple(f"{stack}." for stack in recipe["experts"])):
            weight_OD = _product(model.get_submodule(name))
            linear = isinstance(stock.get_submodule(name), nn.Linear)
            weights[f"{name}.weight"] = weight_OD if linear else weight_OD.T.contiguous()
            bias = model.get_submodule(name).bias
            if isinstance(bias, torch.Tensor):
                weights[f"{name}.bias"] = bias.detach()
    for name in recipe["experts"]:
        stacked = _stack(model.get_submodule(name))
        weights |= {f"{name}.{part}": tensor for part, tensor in stacked.items()}
    return weights


def _stack(experts: Any) -> dict[str, torch.Tensor]:
    """Return the weights of a mixture as transformers stacks them.

    E×O×D, or E×D×O where it calls them transposed.
    """
    stacked = {}
    for part, index in (("gate_up_proj" if experts.has_gate else "up_proj", 0), ("down_proj", 1)):
        apart = [experts.get_submodule(str(number)) for number in range(experts.num_experts)]
        maps = [getattr(expert, expert.maps[index]) for expert in apart]
        weights = [_product(one) for one in maps]
        stacked[part] = torch.stack([one.T if experts.is_transposed else one for one in weights])
        if experts.has_bias:
            stacked[f"{part}_bias"] = torch.stack([one.bias.detach() for one in maps])
    return stacked


def _product(module: Any) -> torch.Tensor:
    """Return a map's weight, O×D."""
    if isinstance(module, LowRankLinear) and module.rank > 0:
        up_OR, down_RD = module.up.weight.detach(), module.down.weight.detach()
        return (up_OR.float() @ down_RD.float()).to(up_OR.dtype)
    weight: torch.Tensor = module.weight.detach()
    return weight


def _describe(file: Path) -> None:
    """Say in the card what a dense copy is good for, not how an export is loaded."""
    card = ModelCard(file.read_text(encoding="utf-8"))
    before, _, use = card.text.partition("## Use\n")
    _, heading, after = use.partition("## Provenance\n")
    card.text = f"{before}{USE}{heading}{after}"
    file.write_text(str(card), encoding="utf-8")
