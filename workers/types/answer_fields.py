"""Agreement of answers that are JSON objects, field by field."""

import json
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

from ranksieve.workers.types.metrics import exact_match

Field = tuple[tuple[str, ...], Hashable]
"""Path and value. Items of a list share the path `[]`, so that their order does not count."""


def is_object(text: str) -> bool:
    """Return whether a text is a JSON object."""
    return _object(text) is not None


def field_f1(prediction: str, references: Sequence[str]) -> float:
    """Return the best F1 of equal fields with a reference, 0..1.

    Texts are equal whatever their case and blanks, numbers if their values are. A prediction that is no JSON object
    gets 0. A reference that is none has to be matched as a whole.
    """
    found = _object(prediction)
    return max((_agreement(prediction, found, reference) for reference in references), default=0.0)


def _agreement(prediction: str, found: Counter[Field] | None, reference: str) -> float:
    expected = _object(reference)
    if expected is None:
        return exact_match(prediction, [reference])
    if found is None:
        return 0.0
    return 2 * (found & expected).total() / (found.total() + expected.total())


def _object(text: str) -> Counter[Field] | None:
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return Counter(_fields(value)) if isinstance(value, dict) else None


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _fields(whole: dict[str, Any]) -> Iterator[Field]:
    waiting: list[tuple[tuple[str, ...], Any]] = [((), whole)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict) and value:
            waiting += [((*path, name), inner) for name, inner in value.items()]
        elif isinstance(value, list) and value:
            waiting += [((*path, "[]"), item) for item in value]
        else:
            yield path, _comparable(value)


def _comparable(value: Any) -> Hashable:
    """Return a value that equals others as JSON does: `true` is not 1, but 1.0 is."""
    if isinstance(value, str):
        return " ".join(value.casefold().split())
    return value if type(value) in (int, float) else json.dumps([value])
