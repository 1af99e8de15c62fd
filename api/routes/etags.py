"""Entity tags: an answer's own hash, by which a client that has it already need not get it again."""

import hashlib
from http import HTTPStatus
from typing import Annotated

from fastapi import Header, Response
from pydantic import BaseModel

IfNoneMatch = Annotated[
    str | None, Header(max_length=1000, description="`ETag` of the answer that the client has.")
]


def tagged(body: BaseModel, if_none_match: str | None) -> Response:
    """The answer with this body, or 304 without it if the client has it.

    Args:
        body: The body.
        if_none_match: What the client sent in `If-None-Match`: tags with commas between, or `*`.
    """
    content = body.model_dump_json().encode()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    held = {one.strip().removeprefix("W/") for one in (if_none_match or "").split(",")}
    if held & {tag, "*"}:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(content, media_type="application/json", headers=headers)
