"""Base of all parts of a job file: strict about fields and their types."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, FailFast, Field, JsonValue, StringConstraints, model_validator

LONGEST_TEXT = 100_000
"""Most characters of any text in a job file."""


class FirstError(FailFast):
    """Mark of a list whose errors end with the first wrong item.

    A long list may have 100,000.

    Unlike pydantic's own mark it has a hash, which unions of annotated types need.
    """

    __hash__ = object.__hash__


Texts = Annotated[tuple[str, ...], FirstError(), Field(strict=False)]
"""Tuple of texts; lists are accepted, as neither JSON nor YAML has tuples. The first wrong one is told."""

ADVANCED: dict[str, JsonValue] = {"x-advanced": True}
"""Schema mark of a seldom needed field, which the reference lists apart."""

Revision = Annotated[str, StringConstraints(pattern=r"^\w[\w-]*([./]\w[\w-]*)*$", max_length=200)]
"""Commit, tag or branch as git allows it.

It becomes part of a path, so `..` is refused.
"""


class Strict(BaseModel):
    """Model that refuses unknown fields and values of another type.

    A text is not taken for a number, nor a number for true. A parsed spec never changes. Texts have a longest length,
    which also makes pydantic refuse half of a surrogate pair.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, str_max_length=LONGEST_TEXT)

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, values: Any) -> Any:
        """Turn whole floats into integers, as JSON Schema and JavaScript do."""
        if not isinstance(values, dict):
            return values
        return {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in values.items()
        }
