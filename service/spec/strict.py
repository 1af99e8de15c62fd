"""What every part of a job file is: strict about its fields and their types."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, model_validator

LONGEST_TEXT = 100_000
"""Most characters of any text in a job file."""

Texts = Annotated[tuple[str, ...], Field(strict=False)]
"""A list is taken for one: neither JSON nor YAML has tuples."""

ADVANCED: dict[str, JsonValue] = {"x-advanced": True}
"""Of a field that the reference lists apart, for it is seldom needed."""

Revision = Annotated[str, StringConstraints(pattern=r"^\w[\w-]*([./]\w[\w-]*)*$", max_length=200)]
"""A commit, tag or branch as git allows it: it becomes part of a path, and `..` in it would lead elsewhere."""


class Strict(BaseModel):
    """Unknown fields are errors, and nothing is taken for what it is not: no text for a number, no number for true.

    A parsed spec never changes. No text is endless, or half of a surrogate pair: where pydantic counts the characters
    of a text it finds that, too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, str_max_length=LONGEST_TEXT)

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, values: Any) -> Any:
        """To JSON Schema, and to JavaScript, 2.0 is an integer."""
        if not isinstance(values, dict):
            return values
        return {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in values.items()
        }
