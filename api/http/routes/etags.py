"""Entity tags: hashes of answers, which spare a client repeated downloads."""

import hashlib
from http import HTTPStatus
from typing import Annotated

from fastapi import Header, Response
from pydantic import BaseModel, StringConstraints
from pydantic.json_schema import SkipJsonSchema

from ranksieve.search.errors import OutdatedError

Tags = Annotated[str, StringConstraints(max_length=1000)]
IfNoneMatch = Annotated[
    Tags | SkipJsonSchema[None],
    Header(description="`ETag` of the answer that the client has."),
]

IfMatch = Annotated[
    Tags | SkipJsonSchema[None],
    Header(description="`ETag` that the job must still have to be changed; `*` for any."),
]


def require_match(body: BaseModel, if_match: str | None) -> None:
    """Check that a client has seen the current state of what it wants to change.

    Args:
        body: The current state.
        if_match: The client's `If-Match` header.

    Raises:
        OutdatedError: The state has changed since.
    """
    if if_match is not None and not is_held(_tag(_content(body)), if_match):
        raise OutdatedError("this has changed since its ETag was given; get it again, then decide")


def tagged(body: BaseModel, if_none_match: str | None) -> Response:
    """Return the answer with this body, or 304 without it if the client has it.

    Args:
        body: The body.
        if_none_match: The client's `If-None-Match` header: tags with commas between, or `*`.
    """
    content = _content(body)
    tag = _tag(content)
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if is_held(tag, if_none_match):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(content, media_type="application/json", headers=headers)


def is_held(tag: str, header: str | None) -> bool:
    """Return whether a tag is in a client's header of tags."""
    held = {one.strip().removeprefix("W/") for one in (header or "").split(",")}
    return bool(held & {tag, "*"})


def _content(body: BaseModel) -> bytes:
    return body.model_dump_json().encode()


def _tag(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:32]}"'
