"""What the bodies of the REST API share: bounds, the place in a list, and how errors are told."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, StringConstraints

LARGEST = 2**31 - 1
"""No count or number of the service gets beyond this; larger ones are refused before the database sees them."""

MAX_BODY_BYTES = 4 * 1024 * 1024
"""A job file holds templates and labels, never data."""

Count = Annotated[int, Field(ge=0, le=LARGEST)]

After = Annotated[str, StringConstraints(pattern="^[0-9A-Za-z]{1,100}$")]
"""Id of the last one of the page before."""


class Shown(BaseModel):
    """The body of something that has attributes of the same names."""

    @classmethod
    def of(cls, shown: Any, **more: Any) -> Self:
        """Its body; `more` are the fields that it has no attributes for."""
        return cls(**{name: getattr(shown, name) for name in cls.model_fields if name not in more}, **more)


class FieldProblem(BaseModel):
    """One offending field of a request."""

    field: str = Field(description="Dotted name in the job file, or the name of the query parameter.")
    pointer: str | None = Field(
        default=None, description="JSON pointer into the body; absent for parameters."
    )
    detail: str


class Problem(BaseModel):
    """Why a request was refused (RFC 9457)."""

    title: str
    status: int
    code: str = Field(description="What kind of error it is; stays as it is.")
    detail: str
    request_id: str = Field(description="Also in the `X-Request-ID` header and in the server's log.")
    instance: str = Field(description="Path of the request.")
    errors: list[FieldProblem] = Field(default_factory=list)
