"""The one place where exceptions become HTTP: problem documents after RFC 9457.

Every error body is `application/problem+json`, with a `code` that stays as it is and the id of the request. One
about the job file lists each offending field by its dotted name and its JSON pointer. Any other exception is
logged for the operator and told to the user without its text, which may hold paths or data.
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
from ranksieve.api.spec_errors import ROOT, dotted, name_errors, pointer, root_of
from ranksieve.search.errors import (
    ConflictError,
    GoneError,
    InputError,
    LimitError,
    NotFoundError,
    OutdatedError,
    RanksieveError,
    StoreError,
)
from ranksieve.service.job.redaction import redact

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_STATUS: Mapping[type[RanksieveError], HTTPStatus] = {
    InputError: HTTPStatus.UNPROCESSABLE_ENTITY,
    NotFoundError: HTTPStatus.NOT_FOUND,
    OutdatedError: HTTPStatus.PRECONDITION_FAILED,
    GoneError: HTTPStatus.GONE,
    ConflictError: HTTPStatus.CONFLICT,
    LimitError: HTTPStatus.TOO_MANY_REQUESTS,
    StoreError: HTTPStatus.SERVICE_UNAVAILABLE,
}
CODES = {
    400: "bad_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    410: "gone",
    412: "outdated",
    413: "body_too_large",
    416: "range_not_satisfiable",
    422: "invalid",
    429: "too_many_requests",
    500: "internal",
    503: "unavailable",
}
"""What a client may rely on; the phrases of HTTP change with its revisions."""

_REFUSALS = {
    HTTPStatus.BAD_REQUEST: "this server is not known by the name in the Host header, which RANKSIEVE_ALLOWED_HOSTS "
    "would have to hold; or Range cannot be read",
    HTTPStatus.FORBIDDEN: "a page of another origin may change nothing here; RANKSIEVE_ALLOWED_HOSTS names a proxy",
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: "the file does not reach to where Range asks",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: f"the body is larger than the {MAX_BODY_BYTES} bytes that this server takes; "
    "a job file names its data and holds none",
}

_UNTOLD = {
    HTTPStatus.NOT_FOUND: "there is nothing at this path; /openapi.json has the paths there are",
    HTTPStatus.METHOD_NOT_ALLOWED: "this path does not take this method; the header Allow has those that it takes",
}
"""What a router says in a phrase of HTTP."""


class ProblemResponse(JSONResponse):
    """A problem document."""

    media_type = MEDIA_TYPE

    def render(self, content: Any) -> bytes:
        """The document as JSON; half of a surrogate pair, which may be in what is told of a body, stays escaped."""
        return json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace")


def install(app: FastAPI) -> None:
    """Make `app` answer every exception with a problem document."""
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(RanksieveError, _on_ranksieve_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_unexpected)


def refuse(request: Request, status: HTTPStatus) -> "ProblemResponse":
    """The answer to a request that a middleware refused."""
    return _problem(request, status, _REFUSALS.get(status, status.phrase))


def refuse_unreadable(detail: str) -> "ProblemResponse":
    """The answer to what is no HTTP, and so has no path."""
    nothing = Request({"type": "http", "path": "", "headers": []})
    return _problem(nothing, HTTPStatus.BAD_REQUEST, detail, headers={HEADER: request_id(nothing.scope)})


def responses(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """The problem documents a route may answer with, for OpenAPI."""
    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {
        int(status): {"description": status.phrase, "model": Problem, "content": {MEDIA_TYPE: schema}}
        for status in statuses
    }


async def _on_invalid_request(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, RequestValidationError)
    body = [{**record, "loc": record["loc"][1:]} for record in error.errors() if record["loc"][0] == "body"]
    outside = [
        record
        for record in error.errors()
        if record["loc"][0] != "body" and record["type"] != "none_required"
    ]  # a parameter that may be left out cannot be given as nothing
    fields = [*_body_fields(request, body), *map(_parameter, outside)]
    return _problem(request, HTTPStatus.UNPROCESSABLE_ENTITY, _summary(fields), fields)


async def _on_ranksieve_error(request: Request, error: Exception) -> ProblemResponse:
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), None)
    if status is None:
        return await _on_unexpected(request, error)
    if isinstance(error, StoreError):
        _log(request, error)
        detail = "the job store cannot be reached at present; try again later"
        return _problem(request, status, detail, headers={"Retry-After": "5"})
    if isinstance(error, LimitError):
        return _problem(request, status, str(error), headers={"Retry-After": str(error.retry_after_s)})
    if isinstance(error, InputError):
        path = () if error.field == ROOT else tuple(error.field.split("."))
        field = FieldProblem(field=error.field, pointer=pointer(path), detail=error.message)
        return _problem(request, status, str(error), [field])
    return _problem(request, status, str(error))


async def _on_http_exception(request: Request, error: Exception) -> ProblemResponse:
    assert isinstance(error, HTTPException)
    headers = error.headers
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and (methods := _methods(request)):
        headers = {"Allow": ", ".join(methods)}
    status = HTTPStatus(error.status_code)
    detail = _UNTOLD.get(status, error.detail) if error.detail == status.phrase else error.detail
    return _problem(request, status, detail, headers=headers)


def _methods(request: Request) -> list[str]:
    """All methods that the document has for a path; a router would tell of its first route alone."""
    return sorted(
        method.upper()
        for template, methods in request.app.openapi()["paths"].items()
        if compile_path(template)[0].fullmatch(request.url.path)
        for method in methods
    )


async def _on_unexpected(request: Request, error: Exception) -> ProblemResponse:
    _log(request, error)
    detail = "the server failed to answer; its log has the reason, under this request_id"
    return _problem(request, HTTPStatus.INTERNAL_SERVER_ERROR, detail)


def _log(request: Request, error: Exception) -> None:
    named = (request_id(request.scope), request.method, request.url.path)
    logger.error("request %s: %s %s failed", *named, exc_info=error)


def _body_fields(request: Request, records: Sequence[Mapping[str, Any]]) -> list[FieldProblem]:
    """The offending fields of a job file or another body; its text may not even be JSON."""
    if not records:
        return []
    model = _body_model(request)
    for record in records:
        if record["type"] == "json_invalid":
            detail = f"not valid JSON: {record['ctx']['error']} at character {record['loc'][0]}"
            return [FieldProblem(field=root_of(model), pointer="", detail=detail)]
        if isinstance(record.get("input"), bytes):  # FastAPI reads as JSON what says that it is
            sent = request.headers.get("Content-Type") or "no Content-Type"
            detail = f"expected JSON sent as such, got {sent}; send it with `Content-Type: application/json`"
            return [FieldProblem(field=root_of(model), pointer="", detail=detail)]
    return [FieldProblem(**named) for named in name_errors(records, model)]


def _body_model(request: Request) -> type[BaseModel]:
    """What the route of a request takes its body for."""
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    assert route.body_field is not None
    model = route.body_field.field_info.annotation
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    return model


def _parameter(record: Mapping[str, Any]) -> FieldProblem:
    """An offending query parameter or header: outside the document, so without a pointer."""
    _, name, *rest = record["loc"]
    path = (name, *(part for part in rest if isinstance(part, int)))  # the others are names of pydantic's
    got = f"; got {record['input']!r}" if "input" in record else ""
    return FieldProblem(field=dotted(path), detail=f"{record['msg']}{got}")


def _summary(fields: Sequence[FieldProblem]) -> str:
    return "; ".join(f"{field.field}: {field.detail}" for field in fields)


def _problem(
    request: Request,
    status: HTTPStatus,
    detail: str,
    errors: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> ProblemResponse:
    problem = Problem(
        title=status.phrase,
        status=status,
        code=CODES.get(status, "other"),
        detail=redact(detail),
        instance=request.url.path,
        request_id=request_id(request.scope),
        errors=[field.model_copy(update={"detail": redact(field.detail)}) for field in errors],
    )
    return ProblemResponse(
        problem.model_dump(mode="json", exclude_none=True), status_code=status, headers=headers
    )
