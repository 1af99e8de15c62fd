"""Exceptions as HTTP errors: problem documents after RFC 9457.

Every error body is `application/problem+json`, with a stable `code` and the id of the request. A refused job file lists
each offending field by its dotted name and its JSON pointer. Any other exception is logged for the operator; the user
gets no text of it, since that may hold paths or data.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from ranksieve.api.http.request_id import HEADER, request_id
from ranksieve.api.http.schemas.common import MAX_BODY_BYTES, FieldProblem, Problem
from ranksieve.api.spec_errors import (
    BODY,
    MOST_TOLD,
    ROOT,
    dotted,
    more_errors,
    name_errors,
    pointer,
    root_of,
    suggestion,
)
from ranksieve.search.errors import (
    CancelledError,
    ConflictError,
    GoneError,
    InputError,
    LimitError,
    NotFoundError,
    RanksieveError,
    StoreError,
)
from ranksieve.service.job.redaction import redact

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_STATUS: Mapping[type[RanksieveError], HTTPStatus] = {
    InputError: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotFoundError: HTTPStatus.NOT_FOUND,
    GoneError: HTTPStatus.GONE,
    ConflictError: HTTPStatus.CONFLICT,
    LimitError: HTTPStatus.TOO_MANY_REQUESTS,
    StoreError: HTTPStatus.SERVICE_UNAVAILABLE,
    CancelledError: HTTPStatus.SERVICE_UNAVAILABLE,  # read by nobody: the client has left
}
CODES = {
    400: "bad_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    410: "gone",
    413: "body_too_large",
    416: "range_not_satisfiable",
    422: "invalid",
    429: "too_many_requests",
    500: "internal",
    503: "unavailable",
}
"""Stable codes for clients; the phrases of HTTP change with its revisions."""

_REFUSALS = {
    HTTPStatus.BAD_REQUEST: "unknown name in the Host header (RANKSIEVE_ALLOWED_HOSTS adds names), or malformed "
    "Range header",
    HTTPStatus.FORBIDDEN: "pages of other origins may change nothing; add a proxy's name to RANKSIEVE_ALLOWED_HOSTS",
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: "the requested Range is beyond the end of the file",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: f"the body is larger than the {MAX_BODY_BYTES} bytes that this server takes; "
    "a job file names its data and holds none",
}

_ROUTER_DETAILS = {
    HTTPStatus.NOT_FOUND: "no such path; see /openapi.json",
    HTTPStatus.METHOD_NOT_ALLOWED: "this path does not support this method; the Allow header lists the supported ones",
}
"""Details where a router gives only HTTP's phrase."""


class ProblemResponse(JSONResponse):
    """Problem document as a response."""

    media_type = MEDIA_TYPE

    def render(self, content: Any) -> bytes:
        """Encode the document as JSON; lone surrogates of a refused body stay escaped."""
        return json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace")


def install(app: FastAPI) -> None:
    """Make `app` answer every exception with a problem document."""
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(RanksieveError, _on_ranksieve_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_unexpected)


def refuse(request: Request, status: HTTPStatus) -> "ProblemResponse":
    """Return the answer to a request that a middleware refused."""
    return _problem(request, status, _REFUSALS.get(status, status.phrase))


async def answer(request: Request, error: HTTPException | RanksieveError) -> "ProblemResponse":
    """Return the answer to an exception that a middleware caught."""
    on_error = _on_http_exception if isinstance(error, HTTPException) else _on_ranksieve_error
    return await on_error(request, error)


def refuse_connection(status: HTTPStatus, detail: str, headers: Mapping[str, str]) -> "ProblemResponse":
    """Return the answer on a connection without a request, which so has no path."""
    nothing = Request({"type": "http", "path": "", "headers": []})
    return _problem(nothing, status, detail, headers={HEADER: request_id(nothing.scope), **headers})


def responses(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Return the problem documents that a route may answer with, for OpenAPI."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        int(status): {"description": status.phrase, "model": Problem, "content": {MEDIA_TYPE: schema}}
        for status in statuses
    }


def _on_invalid_request(request: Request, error: Exception) -> ProblemResponse:
    """Name the wrong fields; not a coroutine, so that it runs in a thread."""
    assert isinstance(error, RequestValidationError)
    body = [{**record, "loc": record["loc"][1:]} for record in error.errors() if record["loc"][0] == "body"]
    outside = [
        record
        for record in error.errors()
        if record["loc"][0] != "body" and record["type"] != "none_required"
    ]  # an optional parameter cannot be given as null
    fields = [*_body_fields(request, body), *map(_parameter, outside[:MOST_TOLD])]
    if len(outside) > MOST_TOLD:
        fields.append(FieldProblem(field="query", detail=more_errors(len(outside) - MOST_TOLD)))
    return _problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, _summary(fields), fields)


async def _on_ranksieve_error(request: Request, error: Exception) -> ProblemResponse:
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), None)
    if status is None:
        return await _on_unexpected(request, error)
    if isinstance(error, StoreError):
        _log(request, error)
        detail = "the job store cannot be reached; try again later"
        return _problem(request, status, detail, headers={"Retry-After": "5"})
    if isinstance(error, LimitError):
        return _problem(request, status, str(error), headers={"Retry-After": str(error.retry_after_s)})
    if isinstance(error, InputError):
        path = () if error.field in (ROOT, BODY) else tuple(error.field.split("."))
        field = FieldProblem(field=error.field, pointer=pointer(path), detail=error.message)
        return _problem(request, status, str(error), [field])
    return _problem(request, status, str(error))


async def _on_http_exception(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, HTTPException)
    headers = error.headers
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and (methods := _methods(request)):
        headers = {"Allow": ", ".join(methods)}
    status = HTTPStatus(error.status_code)
    detail = _ROUTER_DETAILS.get(status, error.detail) if error.detail == status.phrase else error.detail
    return _problem(request, status, detail, headers=headers)


def _methods(request: Request) -> list[str]:
    """Return all methods of a path; a router knows only its first route's."""
    return sorted(
        method.upper()
        for template, methods in request.app.openapi()["paths"].items()
        if compile_path(template)[0].fullmatch(request.url.path)
        for method in methods
    )


async def _on_unexpected(request: Request, error: Exception) -> ProblemResponse:
    _log(request, error)
    detail = "internal error; see the server's log under this request_id"
    return _problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, detail)


def _log(request: Request, error: Exception) -> None:
    named = (request_id(request.scope), request.method, request.url.path)
    logger.error("request %s: %s %s failed", *named, exc_info=error)


def _body_fields(request: Request, records: Sequence[Mapping[str, Any]]) -> list[FieldProblem]:
    """Return the offending fields of a body, which may not even be JSON."""
    if not records:
        return []
    model = _body_model(request)
    for record in records:
        if record["type"] == "json_invalid":
            detail = f"not valid JSON: {record['ctx']['error']} at character {record['loc'][0]}"
            return [FieldProblem(field=root_of(model), pointer="", detail=detail)]
        # FastAPI parses only bodies with a JSON Content-Type
        if not record["loc"] and isinstance(record.get("input"), bytes):
            sent = request.headers.get("Content-Type") or "no Content-Type"
            detail = f"expected a JSON body, got {sent}; send `Content-Type: application/json`"
            return [FieldProblem(field=root_of(model), pointer="", detail=detail)]
    return [FieldProblem(**named) for named in name_errors(records, model)]


def _body_model(request: Request) -> type[BaseModel]:
    """Return the model of a route's body."""
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    assert route.body_field is not None
    model = route.body_field.field_info.annotation
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    return model


def _parameter(record: Mapping[str, Any]) -> FieldProblem:
    """Describe an offending query parameter or header; neither has a JSON pointer."""
    _, name, *rest = record["loc"]
    path = (
        name,
        *(part for part in rest if isinstance(part, int)),
    )  # the other strings are pydantic's own names
    if "known" in record:
        return FieldProblem(
            field=dotted(path), detail=f"unknown parameter; {suggestion(name, record['known'])}"
        )
    got = f"; got {record['input']!r}" if "input" in record else ""
    return FieldProblem(field=dotted(path), detail=f"{record['msg']}{got}")


def _summary(fields: Sequence[FieldProblem]) -> str:
    return "; ".join(f"{field.field}: {field.detail}" for field in fields)


def _without_folders(request: Request, text: str) -> str:
    """Hide the server's paths from everybody but the admin; see `Caller.shown`."""
    principal, app = getattr(request.state, "principal", None), request.scope.get("app")
    if app is None or (principal is not None and principal.sees is None):
        return text
    return str(app.state.application.for_users(text))


def _place(request: Request, field: FieldProblem) -> dict[str, int]:
    """Return line and column of a field in a YAML body; see `SpecRoute`."""
    find = getattr(request.state, "place", None)
    place = None if find is None or field.pointer is None else find(field.pointer)
    return {} if place is None else place._asdict()


def _problem(
    request: Request,
    status: HTTPStatus,
    detail: str,
    errors: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> ProblemResponse:
    def shown(text: str) -> str:
        return redact(_without_folders(request, text))

    problem = Problem(
        title=status.phrase,
        status=status,
        code=CODES.get(status, "other"),
        detail=shown(detail),
        instance=request.url.path,
        request_id=request_id(request.scope),
        errors=[
            field.model_copy(update={"detail": shown(field.detail), **_place(request, field)})
            for field in errors
        ],
    )
    return ProblemResponse(
        problem.model_dump(mode="json", exclude_none=True), status_code=status, headers=headers
    )
