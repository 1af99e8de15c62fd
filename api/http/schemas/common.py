"""Parts shared by the bodies of the REST API: bounds, pages, errors."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, PlainSerializer, StringConstraints

LARGEST = 2**31 - 1
"""Largest count or number of the service; larger ones are refused before they reach the database."""

MAX_BODY_BYTES = 4 * 1024 * 1024
"""Largest body: a job file holds templates and labels, never data."""

Count = Annotated[int, Field(ge=0, le=LARGEST)]

After = Annotated[str, StringConstraints(pattern="^[0-9A-Za-z]{1,100}$")]
"""Id of the previous page's last item."""

Rounded = Annotated[
    float, PlainSerializer(lambda number: float(f"{number:.6g}"), return_type=float, when_used="json")
]
"""Number told with six significant digits: long lists are mostly digits that nobody reads."""


class Shown(BaseModel):
    """Body of an object with attributes of the same names."""

    @classmethod
    def of(cls, shown: Any, **more: Any) -> Self:
        """Build the body of an object; `more` has the fields without attributes."""
        return cls(**{name: getattr(shown, name) for name in cls.model_fields if name not in more}, **more)


class FieldProblem(BaseModel):
    """Offending field of a request."""

    field: str = Field(description="Dotted name in the job file, or the name of the query parameter.")
    pointer: str | None = Field(
        default=None, description="JSON pointer into the body; absent for parameters."
    )
    line: int | None = Field(
        default=None, description="Line of the field in a YAML body, or of its parent; absent for JSON."
    )
    column: int | None = Field(default=None, description="Column of the field in its line.")
    detail: str


class Problem(BaseModel):
    """Refusal of a request (RFC 9457)."""

    title: str
    status: int
    code: str = Field(description="Kind of the error; stable across versions.")
    detail: str
    request_id: str = Field(description="Also in the `X-Request-ID` header and in the server's log.")
    instance: str = Field(description="Path of the request.")
    errors: list[FieldProblem] = Field(
        default_factory=list, description="The first 20, then one that says how many more there are."
    )
