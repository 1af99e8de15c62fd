"""Classes of an exported model; copied into exports behind the layers.

The imports of this package are left out there.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from ranksieve.workers.model.experts import take_apart
from ranksieve.workers.model.layers import own_name, shrink


def low_rank_config(base: type[Any], model_type: str) -> type[PreTrainedConfig]:
    """Return the configuration class of exports of an architecture.

    Its file names another type, so that no class but that of `low_rank_model` takes the weights. A tensor-parallel plan
    names dense matrices, so there is none.
    """

    class Config(base):  # type: ignore[misc]
        base_model_tp_plan = None

        @classmethod
        def get_config_dict(cls, *args: Any, **kwargs: Any) -> Any:
            values, rest = super().get_config_dict(*args, **kwargs)
            return {**values, "model_type": cls.model_type}, rest

        @classmethod
        def from_dict(cls, *args: Any, **kwargs: Any) -> Any:
            _set_lora_targets(model_type)
            return super().from_dict(*args, **kwargs)

        def to_dict(self) -> dict[str, Any]:  # what transformers saves, and peft looks targets up by
            return {**super().to_dict(), "model_type": model_type}

    Config.__name__ = Config.__qualname__ = f"LowRank{base.__name__}"
    return Config


def _set_lora_targets(model_type: str) -> None:
    """Let LoRA without `target_modules` tune all linear maps of exports.

    These are the maps of the factors and the matrices that stay dense. The names that peft has for an architecture are
    those of layers, which it cannot wrap. peft is not imported, which takes long and would make every user of the model
    install it: a program that tunes has imported it by now.
    """
    peft = sys.modules.get("peft")
    if peft is not None:
        peft.utils.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.setdefault(model_type, "all-linear")


def low_rank_model(base: type[Any], config: type[Any]) -> type[PreTrainedModel]:
    """Return a class of transformers with its matrices as `config.ranksieve` says."""

    class Model(base):  # type: ignore[misc]
        config_class = config

        def __init__(self, config: Any) -> None:
            with _stock(config):
                super().__init__(config)
            recipe = config.ranksieve
            if recipe["experts"]:
                take_apart(self, [own_name(self, name) for name in recipe["experts"]])
            shrink(self, recipe)
            for part in self.modules():
                if isinstance(part, PreTrainedModel):
                    part._tp_plan = {}

        @classmethod
        def _can_set_experts_implementation(cls) -> bool:  # transformers would look for it in this file
            return bool(base._can_set_experts_implementation())

    Model.__name__ = Model.__qualname__ = f"LowRank{base.__name__}"
    return Model


@contextmanager
def _stock(config: Any) -> Iterator[None]:
    """Let a model build its parts from the class of its configuration.

    Heads build their base model by it; an export's class, or `auto_map`, would have the matrices replaced twice.
    """
    own, auto_map = type(config), vars(config).pop("auto_map", None)
    config.__class__ = next(base for base in own.__mro__ if base.__module__.startswith("transformers."))
    try:
        yield
    finally:
        config.__class__ = own
        if auto_map is not None:
            config.auto_map = auto_map
