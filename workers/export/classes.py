"""Classes of an exported model; copied into exports behind the layers.

The imports of this package are left out there.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
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

        def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
            super().save_pretrained(save_directory, **kwargs)
            file = Path(save_directory) / "config.json"
            values = json.loads(file.read_text(encoding="utf-8"))
            file.write_text(json.dumps({**values, "model_type": model_type}, indent=2), encoding="utf-8")

    Config.__name__ = Config.__qualname__ = f"LowRank{base.__name__}"
    return Config


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
