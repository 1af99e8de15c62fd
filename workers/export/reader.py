"""Reader of exported and plain model folders, which runs no code of theirs."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedModel

from ranksieve.search.errors import InputError, RanksieveError
from ranksieve.workers.export.classes import low_rank_model
from ranksieve.workers.model.checks import WEIGHT_FILES, holds_weights
from ranksieve.workers.model.loading import complete, load_prepared, on_device

OWN_TYPE = "ranksieve_"
"""Prefix of an export's `model_type`.

Without it transformers would silently load the architecture's own class and leave its matrices random.
"""


def load_folder(folder: Path) -> PreTrainedModel:
    """Load an exported or a plain model folder with our own code.

    Python files in the folder are never run.

    Raises:
        InputError: The folder holds no model, a damaged one, or an export of an unknown version.
    """
    try:
        return _loaded(folder)
    except RanksieveError:
        raise
    except Exception as error:  # a damaged folder may raise anything
        raise InputError("model_dir", f"cannot load {folder}: {error}; fetch or save it again") from error


def _loaded(folder: Path) -> PreTrainedModel:
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise InputError("model_dir", f"expected a model folder with config.json, got {folder}")
    values = read_values(config_file)
    if not holds_weights(folder):
        raise InputError("model_dir", f"{folder} holds no {WEIGHT_FILES}; pickled weights are never loaded")
    if "ranksieve" not in values:
        return load_prepared(folder, torch.device("cpu"), field="model_dir")
    values.pop("auto_map", None)
    values["model_type"] = str(values["model_type"]).removeprefix(OWN_TYPE)
    recipe = values["ranksieve"]
    base_class = str(recipe["base_class"])
    base = getattr(transformers, base_class, None)
    if not (isinstance(base, type) and issubclass(base, PreTrainedModel)):
        raise InputError("model_dir", f"unknown base class {base_class!r} in {config_file}")
    config = AutoConfig.for_model(**values)

    loaded: Any = low_rank_model(base, type(config)).from_pretrained(
        folder, config=config, dtype="auto", use_safetensors=True, output_loading_info=True
    )
    model: PreTrainedModel = complete(loaded, "model_dir")
    return on_device(model, torch.device("cpu"))


def read_values(config_file: Path) -> dict[str, Any]:
    """Return the values of a configuration file."""
    values: dict[str, Any] = json.loads(config_file.read_text(encoding="utf-8"), object_hook=_special_float)
    return values


def _special_float(values: dict[str, Any]) -> Any:
    """Decode transformers' floats without a JSON number, `{"__float__": "Infinity"}`."""
    return float(values["__float__"]) if values.keys() == {"__float__"} else values
