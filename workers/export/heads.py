"""Classes of an architecture that can carry the weights of an export."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from ranksieve.workers.model.experts import stacked_experts, take_apart
from ranksieve.workers.model.layers import own_name

AUTO_CLASSES: Sequence[str] = tuple(name for name in dir(transformers) if name.startswith("AutoModel"))


def heads_of(model: PreTrainedModel, names: Sequence[str]) -> Mapping[str, str]:
    """Return the classes that can carry a model, by transformers' Auto classes.

    Such a class has all changed matrices under their own names, and reads the configuration as it is.

    Args:
        model: Causal model.
        names: Its modules that were changed.
    """
    found = {auto: base for auto in AUTO_CLASSES if (base := class_of(auto, type(model.config)))}
    return {auto: base.__name__ for auto, base in found.items() if _carries(base, model, names)}


def class_of(auto: str, config: type[Any]) -> type[Any] | None:
    """Return the class that an Auto class makes of a configuration of transformers."""
    mapping = getattr(transformers, auto)._model_mapping
    if mapping is None or config not in mapping:
        return None
    found = mapping[config]
    first: type[Any] = found[0] if isinstance(found, tuple | list) else found
    return first


def _carries(base: type[Any], model: PreTrainedModel, names: Sequence[str]) -> bool:
    if base is type(model):
        return True
    if base.base_model_prefix != model.base_model_prefix or not hasattr(transformers, base.__name__):
        return False  # transformers would not find the weights
    try:
        with torch.device("meta"):
            other = base(model.config)
            take_apart(other, stacked_experts(other))
    except Exception:  # whatever another head asks for, the export itself does not need it
        return False
    modules = dict(other.named_modules())
    return all(own_name(other, name) in modules for name in names)
