"""Licence of a dense model, as its own model card states it."""

from pathlib import Path

import yaml
from huggingface_hub import metadata_load

from ranksieve.workers.types.plan import ModelSource

CARD = "README.md"
FIELDS = ("license", "license_name", "license_link")

LONGEST_CARD, LONGEST_VALUE = 2**20, 500
"""Most bytes of a card that is read, and most characters of a value that is taken over."""


def licence_of(source: ModelSource) -> dict[str, str]:
    """Return the licence fields of a resolved source's card, if it has any.

    A card is prose for people: a damaged one is no reason to refuse its model.
    """
    card = Path(source.location) / CARD
    if source.kind == "gguf" or not card.is_file() or card.stat().st_size > LONGEST_CARD:
        return {}
    try:
        metadata = metadata_load(card) or {}
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    found = {name: metadata.get(name) for name in FIELDS}
    return {
        name: value for name, value in found.items() if isinstance(value, str) and len(value) <= LONGEST_VALUE
    }
