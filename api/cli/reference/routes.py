"""Page of the REST routes, from the server's OpenAPI document."""

from collections.abc import Iterator, Mapping
from typing import Any

from ranksieve.api.cli.reference.schemas import HEADER, Schema, references, rows, type_text
from ranksieve.api.http.app import openapi_document
from ranksieve.api.http.errors import MEDIA_TYPE
from ranksieve.api.reference.markdown import anchor, code, page, paragraphs, table

_SCHEMAS = "#/components/schemas/"
_ELSEWHERE = {"JobSpec": "[job file](job-file.md)"}
_PARAMETERS = ("name", "in", "type", "default", "meaning")


def render() -> str:
    """Render the page."""
    document = openapi_document()
    links = {
        f"{_SCHEMAS}{name}": _ELSEWHERE.get(name, f"[{name}](#{anchor(name)})")
        for name in document["components"]["schemas"]
    }
    intro = (
        "Examples of every body are in the server's own `/docs/api` and `/openapi.json`. "
        "Every error is a [problem document](errors.md)."
    )
    tags = [_tag(tag, document, links) for tag in document["tags"]]
    return page("# REST routes", intro, *tags, "## Types in requests", *_bodies(document, links))


def _tag(tag: Mapping[str, str], document: Mapping[str, Any], links: Mapping[str, str]) -> str:
    routes = [
        _route(method, path, operation, links)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if tag["name"] in operation["tags"]
    ]
    return page(f"## {tag['name'].capitalize()}", tag["description"], *routes)


def _route(method: str, path: str, operation: Mapping[str, Any], links: Mapping[str, str]) -> str:
    errors, answers = [], []
    for status, answer in sorted(operation["responses"].items()):
        if MEDIA_TYPE in answer.get("content", {}):
            errors.append(status)
        else:
            kinds = ", ".join(map(code, answer.get("content", ())))
            answers.append(f"{status} {answer['description'].rstrip('.')}" + (f" ({kinds})" if kinds else ""))
    return page(
        f"### `{method.upper()} {path}`",
        paragraphs(operation.get("description", "")),
        table(_PARAMETERS, _parameters(operation, links)),
        _body(operation.get("requestBody", {}).get("content", {}), links),
        f"Answers: {'; '.join(answers)}." + (f" Errors: {', '.join(errors)}." if errors else ""),
    )


def _body(content: Mapping[str, Mapping[str, Any]], links: Mapping[str, str]) -> str:
    """Render a body's type, and its media types where JSON is not the only one."""
    if not content:
        return ""
    types = dict.fromkeys(type_text(one["schema"], links) for one in content.values())
    kinds = f" ({', '.join(map(code, content))})" if len(content) > 1 else ""
    return f"Body: {', '.join(types)}{kinds}."


def _parameters(operation: Mapping[str, Any], links: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    for one in operation.get("parameters", ()):
        named = {
            "properties": {one["name"]: one["schema"]},
            "required": [one["name"]] * one.get("required", 0),
        }
        ((name, kind, default, bounds, meaning),) = rows(named, links)
        text = one.get("description", meaning)
        yield name, one["in"], kind, default, f"{text} ({bounds})" if bounds else text


def _bodies(document: Mapping[str, Any], links: Mapping[str, str]) -> Iterator[str]:
    """Render the schemas of bodies and parameters of requests, and those inside."""
    schemas: Mapping[str, Schema] = document["components"]["schemas"]
    waiting = [
        reference
        for methods in document["paths"].values()
        for operation in methods.values()
        for one in (
            *operation.get("requestBody", {}).get("content", {}).values(),
            *operation.get("parameters", ()),
        )
        for reference, _ in references(one["schema"])
    ]
    shown = {f"{_SCHEMAS}{name}" for name in _ELSEWHERE}
    while waiting:
        if (reference := waiting.pop(0)) in shown:
            continue
        shown.add(reference)
        name = reference.removeprefix(_SCHEMAS)
        inner = schemas[name]
        waiting += [found for field in inner.get("properties", {}).values() for found, _ in references(field)]
        choices = ", ".join(map(code, inner.get("enum", ())))
        yield page(
            f"### {name}",
            paragraphs(inner.get("description", "")),
            f"One of {choices}." if choices else "",
            table(HEADER, rows(inner, links)),
        )
