"""`ranksieve explain`: meaning of job-file fields, from their pydantic models."""

import json
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any

import typer

from ranksieve.search.errors import InputError
from ranksieve.service.spec import JobSpec
from ranksieve.service.spec.strict import LONGEST_TEXT

MOST_SUGGESTIONS = 5
LIMITS = (
    ("minimum", ">= {}"),
    ("exclusiveMinimum", "> {}"),
    ("maximum", "<= {}"),
    ("exclusiveMaximum", "< {}"),
    ("minLength", "length >= {:,}"),
    ("maxLength", "length <= {:,}"),
    ("minItems", "length >= {:,}"),
    ("maxItems", "length <= {:,}"),
    ("minProperties", "length >= {:,}"),
    ("maxProperties", "length <= {:,}"),
)
"""JSON Schema's names of limits, and how they are printed."""

Schema = Mapping[str, Any]
Fields = dict[str, list[Schema]]
"""Dotted path → its schemas, one for each kind of objective that has the field.

`of` is that kind; `needed` says whether the field is required.
"""

app = typer.Typer()


@app.command()
def explain(
    field: Annotated[str, typer.Argument(metavar="FIELD", help="Such as objective.points, or search.")],
) -> None:
    """Explain a field of the job file: its type, default, allowed range and meaning."""
    fields = fields_of(JobSpec.model_json_schema())
    if field not in fields:
        raise InputError(field, f"no such field of the job file; {_near(field, fields)}")
    typer.echo("\n\n".join(dict.fromkeys(_text_of(field, one) for one in fields[field])))
    below = [path for path in fields if path.rpartition(".")[0] == field]
    if below:
        typer.echo("\nfields:")
    for path in below:
        types = " or ".join(dict.fromkeys(_type(one) for one in fields[path]))
        defaults = " or ".join(dict.fromkeys(filter(None, map(_default, fields[path]))))
        typer.echo(f"  {path}: {types}{f', default {defaults}' if defaults else ''}")


def fields_of(schema: Schema) -> Fields:
    """Return every field of a JSON schema, parents before their children."""
    found: Fields = {}
    for path, field in _walk(schema, schema["$defs"], ""):
        found.setdefault(path, []).append(field)
    return found


def _walk(schema: Schema, definitions: Schema, above: str) -> Iterator[tuple[str, Schema]]:
    properties = schema.get("properties", {})
    for name, field in properties.items():
        whole = _resolved(field, definitions)
        whole["of"] = properties.get("kind", {}).get("const")
        whole["needed"] = name in schema.get("required", ())
        yield f"{above}{name}", whole
        for part in _parts(whole):
            yield from _walk(part, definitions, f"{above}{name}.")


def _resolved(field: Schema, definitions: Schema) -> dict[str, Any]:
    """Return a schema with its references filled in; its own entries win."""
    if "$ref" in field:
        field = {**definitions[field["$ref"].rpartition("/")[2]], **field}
    resolved = {key: value for key, value in field.items() if key != "$ref"}
    for key in ("anyOf", "oneOf"):
        if key in field:
            resolved[key] = [_resolved(one, definitions) for one in field[key]]
    for key in ("items", "additionalProperties"):
        if isinstance(field.get(key), dict):
            resolved[key] = _resolved(field[key], definitions)
    return resolved


def _parts(field: Schema) -> Iterator[Schema]:
    """Yield the schema itself and every alternative, item or value schema in it."""
    yield field
    for key in ("anyOf", "oneOf"):
        for one in field.get(key, ()):
            yield from _parts(one)
    for key in ("items", "additionalProperties"):
        if isinstance(field.get(key), dict):
            yield from _parts(field[key])


def _text_of(path: str, field: Schema) -> str:
    limits = dict.fromkeys(
        text.format(part[key])
        for part in _parts(field)
        for key, text in LIMITS
        if key in part and part[key] != LONGEST_TEXT
    )
    rows = {
        "type": _type(field),
        "default": "none, it is required" if field["needed"] else _default(field),
        "allowed": ", ".join(limits),
        "meaning": " ".join(field.get("description", "").split()),
    }
    name = f"{path} of {field['of']}" if field["of"] else path
    return "\n".join([name, *(f"  {row}: {text}" for row, text in rows.items() if text)])


def _default(field: Schema) -> str:
    return json.dumps(field["default"], ensure_ascii=False) if "default" in field else ""


def _type(field: Schema) -> str:
    """Return the allowed types of a value, in the words of a job file."""
    alternatives = [_type(one) for key in ("anyOf", "oneOf") for one in field.get(key, ())]
    if alternatives:
        return " or ".join(dict.fromkeys(alternatives))
    if "enum" in field or "const" in field:
        return " or ".join(str(one) for one in field.get("enum", [field.get("const")]))
    kind: str = field.get("type", "anything")
    if kind == "array":
        return f"list of {_type(field.get('items') or field['prefixItems'][0])}"
    if kind == "object" and "properties" not in field:
        return f"mapping to {_type(field['additionalProperties'])}"
    names = {"string": "text", "object": "mapping of fields", "boolean": "true or false"}
    return names.get(kind, kind)


def _near(field: str, fields: Fields) -> str:
    """Suggest fields with the same last name, or with similar names."""
    last = field.rpartition(".")[2]
    same = [path for path in fields if path.rpartition(".")[2] == last]
    close = same or get_close_matches(field, fields, n=MOST_SUGGESTIONS)
    if not close:
        names = {path.rpartition(".")[2]: path for path in fields}
        close = [names[name] for name in get_close_matches(last, names, n=MOST_SUGGESTIONS)]
    if close:
        return f"did you mean {' or '.join(close[:MOST_SUGGESTIONS])}?"
    return (
        f"expected one of {', '.join(path for path in fields if '.' not in path)}, or a field in one of them"
    )
