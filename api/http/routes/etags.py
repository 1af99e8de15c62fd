"""Entity tags: hashes of answers, which spare a client repeated downloads."""

import hashlib
from http import HTTPStatus
from typing import Annotated

from fastapi import Header, Response
from pydantic import BaseModel, StringConstraints
from pydantic.json_schema import SkipJsonSchema

IfNoneMatch = Annotated[
    Annotated[str, StringConstraints(max_length=1000)] | SkipJsonSchema[None],
    Header(description="`ETag` of the answer that the client has."),
]


def tagged(body: BaseModel, if_none_match: str | None) -> Response:
    """Return the answer with this body, or 304 without it if the client has it.

    Args:
        body: The body.
        if_none_match: The client's `If-None-Match` header: tags with commas between, or `*`.
    """
    content = body.model_dump_json().encode()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if is_held(tag, if_none_match):
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(content, media_type="application/json", headers=headers)


def is_held(tag: str, header: str | None) -> bool:
    """Return whether a tag is in a client's header of tags."""
    held = {one.strip().removeprefix("W/") for one in (header or "").split(",")}
    return bool(held & {tag, "*"})
