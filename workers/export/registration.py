"""Registration of the classes of exports with transformers' Auto classes."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ranksieve.workers.export.classes import low_rank_config, low_rank_model
from ranksieve.workers.export.heads import AUTO_CLASSES, class_of
from ranksieve.workers.export.reader import OWN_TYPE


@dataclass(frozen=True, kw_only=True)
class LazyClass:
    """Stand-in for a model class, which is made when a model is loaded.

    Modeling files of all architectures would take minutes to import.
    """

    auto: str
    stock: type[Any]
    config: type[Any]

    def from_pretrained(self, folder: Any, *args: Any, config: Any, **options: Any) -> Any:
        """Load a folder, as a model class does."""
        return self._model_class(config).from_pretrained(folder, *args, config=config, **options)

    def _from_config(self, config: Any, **options: Any) -> Any:
        return self._model_class(config)._from_config(config, **options)

    def _model_class(self, config: Any) -> Any:
        if self.auto not in config.auto_map:
            raise ValueError(f"this export has no {self.auto}; it has {', '.join(config.auto_map)}")
        return self._made

    @cached_property
    def _made(self) -> type[Any]:
        base = class_of(self.auto, self.stock)
        assert base is not None
        return low_rank_model(base, self.config)


def register() -> None:
    """Register every causal architecture of transformers, once."""
    for model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        own_type = f"{OWN_TYPE}{model_type}"
        if own_type in CONFIG_MAPPING:
            continue
        stock = CONFIG_MAPPING[model_type]
        config = low_rank_config(stock, own_type)
        CONFIG_MAPPING.register(own_type, config)
        for auto in AUTO_CLASSES:
            mapping = getattr(transformers, auto)._model_mapping
            if mapping is not None and stock in mapping:
                mapping.register(config, LazyClass(auto=auto, stock=stock, config=config))
