"""Fields of a JSON schema as rows of a table: type, default, bounds, description."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from ranksieve.api.reference.markdown import code
from ranksieve.service.spec.strict import LONGEST_TEXT

Schema = Mapping[str, Any]

EMPTY: Mapping[str, Schema] = MappingProxyType({})

HEADER = ("field", "type", "default", "bounds", "meaning")

_RANGES = (
    ("minimum", "maximum", ""),
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " items"),
    ("minProperties", "maxProperties", " entries"),
)
_TYPES = {"array": "list", "object": "mapping", "string": "text", "boolean": "true or false"}


def definitions_of(schema: Schema) -> dict[str, Schema]:
    """Return the definitions of a schema, by their references."""
    return {f"#/$defs/{name}": inner for name, inner in schema["$defs"].items()}


def rows(
    schema: Schema, links: Mapping[str, str], definitions: Mapping[str, Schema] = EMPTY
) -> Iterator[tuple[str, ...]]:
    """Yield a row for each field of an object.

    Args:
        schema: The object's schema.
        links: Text in place of each referenced schema, by its reference.
        definitions: Schemas that describe fields without a description of their own.
    """
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in schema.get("required", ()) else _default(field)
        meaning = field.get("description", _meaning(field, definitions))
        yield code(name), type_text(field, links), default, bounds_text(field), meaning


def references(schema: Schema) -> Iterator[tuple[str, str]]:
    """Yield a field's references, each with its addition to the field's path."""
    if "$ref" in schema:
        yield schema["$ref"], ""
    for inner in _alternatives(schema):
        yield from references(inner)
    for key, step in (("items", "[]"), ("additionalProperties", ".*")):
        if isinstance(schema.get(key), Mapping):
            yield from ((reference, step + below) for reference, below in references(schema[key]))


def type_text(schema: Schema, links: Mapping[str, str]) -> str:
    """Return the type of a field's values."""
    if "$ref" in schema:
        return links[schema["$ref"]]
    if alternatives := _alternatives(schema):
        return " or ".join(dict.fromkeys(type_text(one, links) for one in alternatives))
    if "const" in schema:
        return code(schema["const"])
    if "enum" in schema:
        return ", ".join(map(code, schema["enum"]))
    name = str(schema.get("type", "any"))
    kind = _TYPES.get(name, name)
    inner = schema.get("items" if kind == "list" else "additionalProperties")
    return f"{kind} of {type_text(inner, links)}" if isinstance(inner, Mapping) and inner else kind


def bounds_text(schema: Schema) -> str:
    """Return the bounds of a field, or of each kind of value it takes."""
    found = [*_ranges(schema), *filter(None, map(bounds_text, _alternatives(schema)))]
    if isinstance(items := schema.get("items"), Mapping) and (each := bounds_text(items)):
        found.append(f"each {each}")
    return ", ".join(dict.fromkeys(found))


def _meaning(field: Schema, definitions: Mapping[str, Schema]) -> str:
    """Return the first paragraph about a field's mapping, if it takes only one kind."""
    found = [reference for reference, _ in references(field)]
    only = definitions.get(found[0], {}) if len(found) == 1 else {}
    return str(only.get("description", "")).partition("\n\n")[0]


def _ranges(schema: Schema) -> Iterator[str]:
    for least, most, unit in _RANGES:
        low, high = schema.get(least), schema.get(most)
        if unit == " characters" and schema.get("type") != "string":
            unit = " entries"  # of a field that takes a list or a mapping
        if high == LONGEST_TEXT:  # of every text
            high = None
        if low is not None and high is not None:
            yield f"{_number(low)} to {_number(high)}{unit}"
        elif low is not None:
            yield f"at least {_number(low)}{unit}"
        elif high is not None:
            yield f"at most {_number(high)}{unit}"
    for key, word in (("exclusiveMinimum", "above"), ("exclusiveMaximum", "below")):
        if key in schema:
            yield f"{word} {_number(schema[key])}"


def _alternatives(schema: Schema) -> list[Schema]:
    found = [*schema.get("anyOf", ()), *schema.get("oneOf", ()), *schema.get("allOf", ())]
    return [one for one in found if one.get("type") != "null"]


def _default(field: Schema) -> str:
    if "default" not in field or field["default"] == "":
        return ""
    return "none" if field["default"] is None else code(field["default"])


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else str(value)
