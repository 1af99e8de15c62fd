"""LoRA adapters: checks of their files and shapes, and merging into a model.

Knows the files that peft writes. Nothing is unpickled, and a configuration's patterns may be plain names only. Merging
needs the extra `adapter`.

Legend: O output width, D input width, R rank.
"""

import json
import os
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from ranksieve.search.errors import InputError

FIELD = "model.adapter"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
FILES = (CONFIG, WEIGHTS)

LARGEST_CONFIG = 2**20
"""Most bytes of a configuration; peft writes a few thousand."""

_MERGED_BY = frozenset({"alpha_pattern", "fan_in_fan_out", "lora_alpha", "r", "rank_pattern", "use_rslora"})
"""Settings that say what is added to the weights; the names of the matrices are those of the tensors."""

_OF_TRAINING = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode", "layers_pattern"),
        *(
            "layers_to_transform",
            "lora_dropout",
            "megatron_core",
            "peft_type",
            "peft_version",
            "qalora_group_size",
        ),
        *("revision", "target_modules", "task_type"),
    }
)
"""Settings that a merge does not depend on."""

_UNUSED = {"bias": ("none",), "init_lora_weights": (True, "gaussian", "orthogonal", "eva")}
"""Values of other settings that a merge does not depend on; empty and false ones are not listed."""

_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_NAME = re.compile(r"\^?[\w.]+")

_MERGE_IT = "merge it with peft (merge_and_unload, then save_pretrained) and name that folder as model.path"


def check_adapter(folder: Path) -> None:
    """Refuse an adapter that no job may use.

    Raises:
        InputError: peft is not installed, or the folder holds no LoRA adapter in safetensors, a damaged one, or one
            that is more than low-rank maps.
    """
    if find_spec("peft") is None:
        raise InputError(FIELD, "needs peft, which the server lacks: pip install 'ranksieve[adapter]'")
    for name in FILES:
        if not (folder / name).is_file():  # opening a named pipe would wait for its writer
            raise InputError(
                FIELD,
                f"expected a folder with {CONFIG} and {WEIGHTS}, as peft saves them, got {folder} without a file "
                f"{name}; pickled weights are never loaded",
            )
        if not os.access(folder / name, os.R_OK):
            raise InputError(FIELD, f"this server may not read {folder / name}; change its permissions")
    _read_config(folder)
    _read_shapes(folder)


def fit_adapter(folder: Path, model: PreTrainedModel) -> None:
    """Refuse an adapter whose matrices or shapes are not those of a model.

    Args:
        folder: Folder that passed `check_adapter`.
        model: The model; its weights are not read.

    Raises:
        InputError: Names the first matrix that does not fit.
    """
    modules = dict(model.named_modules())
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    for name, (out_features, in_features) in _read_shapes(folder).items():
        module = modules.get(name)
        weight = getattr(module, "weight", None)
        if module is None or weight is None or weight.ndim != 2:
            raise InputError(
                FIELD, f"adapts {name}, which is no matrix of the model; give the adapter's own base model"
            )
        shape = tuple(weight.shape) if isinstance(module, nn.Linear) else tuple(weight.shape)[::-1]
        if shape != (out_features, in_features):
            raise InputError(
                FIELD,
                f"adapts {name} as {out_features}×{in_features}, in the model it is {shape[0]}×{shape[1]}; give the "
                "adapter's own base model",
            )
        if module is head and model.config.get_text_config().tie_word_embeddings:
            raise InputError(
                FIELD, f"adapts {name}, whose weights are those of the embeddings, too; adapt other matrices"
            )


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Return a model with an adapter merged into its weights.

    Args:
        model: Its base model, changed in place.
        folder: Folder that passed `check_adapter`.

    Raises:
        InputError: The adapter does not fit the model.
    """
    from peft import LoraConfig, PeftModel, set_peft_model_state_dict

    settings = _read_config(folder)
    targets = set(_read_shapes(folder))
    chosen = {name: value for name, value in settings.items() if name in _MERGED_BY and value is not None}
    try:
        with torch.random.fork_rng():  # peft draws weights first, from torch's global generator
            adapted = PeftModel(model, LoraConfig(**chosen, target_modules=targets))
        left = set_peft_model_state_dict(adapted, load_file(folder / WEIGHTS))
        absent = [*left.unexpected_keys, *(name for name in left.missing_keys if ".lora_" in name)]
        if absent:
            raise ValueError(f"{absent[0]} is in one of them only")
        merged: PreTrainedModel = adapted.merge_and_unload()
    except Exception as error:  # peft checks neither types nor sizes, and may raise anything
        raise InputError(
            FIELD, f"{folder} does not fit the model: {error}; give its own base model"
        ) from error
    return merged


def _read_config(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    if file.stat().st_size > LARGEST_CONFIG:
        raise InputError(
            FIELD, f"{CONFIG} must have at most {LARGEST_CONFIG:,} bytes, got {file.stat().st_size:,}"
        )
    try:
        settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(FIELD, f"{CONFIG} is not valid JSON: {error}") from error
    kind = settings.get("peft_type") if isinstance(settings, dict) else None
    if kind != "LORA":
        raise InputError(FIELD, f"{CONFIG} must have a peft_type of LORA, got {kind!r}; {_MERGE_IT}")
    for name, value in settings.items():
        if value and name not in _MERGED_BY | _OF_TRAINING and value not in _UNUSED.get(name, ()):
            raise InputError(FIELD, f"uses {name} ({str(value)[:50]}), which is not supported; {_MERGE_IT}")
    for name in ("rank_pattern", "alpha_pattern"):
        patterns = settings.get(name) or {}
        if not isinstance(patterns, dict) or not all(map(_NAME.fullmatch, patterns)):
            raise InputError(
                FIELD, f"{name} must map names of matrices, not patterns, to numbers; {_MERGE_IT}"
            )
    return settings


def _read_shapes(folder: Path) -> Mapping[str, tuple[int, int]]:
    """Return the adapted matrices by name, each with its output and input width."""
    shapes: dict[str, list[int]] = {}
    try:
        with safe_open(folder / WEIGHTS, framework="numpy") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(FIELD, f"{WEIGHTS} is damaged ({error}); fetch or save it again") from error
    found: dict[str, dict[str, list[int]]] = {}
    for name, shape in shapes.items():
        match = _TENSOR.fullmatch(name)
        if match is None or len(shape) != 2:
            raise InputError(
                FIELD, f"{WEIGHTS} holds {name}, expected lora_A and lora_B of matrices alone; {_MERGE_IT}"
            )
        found.setdefault(match[1], {})[match[2]] = shape
    for name, pair in found.items():
        if pair.keys() != {"A", "B"} or pair["A"][0] != pair["B"][1]:
            raise InputError(
                FIELD, f"{WEIGHTS} must hold a pair R×D and O×R of {name}, got {pair}; save it again"
            )
    if not found:
        raise InputError(FIELD, f"{WEIGHTS} holds no adapted matrix; save it again")
    return {name: (pair["B"][0], pair["A"][1]) for name, pair in found.items()}
