"""Additions to FastAPI's OpenAPI document: examples, media type of errors."""

from http import HTTPStatus
from typing import Any

from ranksieve.api.http.errors import CODES, MEDIA_TYPE
from ranksieve.api.http.examples import DETAILS, EXAMPLES

_REFERENCE = "#/components/schemas/"


def documented(openapi: dict[str, Any]) -> dict[str, Any]:
    """Complete an OpenAPI document in place and return it."""
    for path, methods in [*openapi["paths"].items(), *openapi.get("webhooks", {}).items()]:
        for operation in methods.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                _exemplify(content)
            for status, response in operation["responses"].items():
                _document_answer(path, status, response)
    return openapi


def _document_answer(path: str, status: str, response: dict[str, Any]) -> None:
    content = response.get("content", {})
    if MEDIA_TYPE in content:
        response["content"] = {MEDIA_TYPE: {**content[MEDIA_TYPE], "example": _problem(path, int(status))}}
    elif "application/json" in content:
        _exemplify(content["application/json"])
    if MEDIA_TYPE in content and int(status) in (
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.SERVICE_UNAVAILABLE,
    ):
        seconds = {
            "schema": {"type": "integer"},
            "description": "Seconds to wait before the next request.",
        }
        response["headers"] = {"Retry-After": seconds}


def _exemplify(content: dict[str, Any]) -> None:
    name = content.get("schema", {}).get("$ref", "").removeprefix(_REFERENCE)
    if name in EXAMPLES:
        content["example"] = EXAMPLES[name]


def _problem(path: str, status: int) -> dict[str, Any]:
    """Return an example of a status's problem document."""
    detail = DETAILS[status]
    problem = {
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": CODES[status],
        "detail": detail,
        "request_id": "6b1f0f6cbd0d4a21",
        "instance": path,
        "errors": [],
    }
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        field, _, what = detail.partition(": ")
        problem["errors"] = [{"field": field, "pointer": "/" + field.replace(".", "/"), "detail": what}]
    return problem
