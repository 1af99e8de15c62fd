"""Names of refused fields, equal over REST and on the command line.

Pydantic's own locations carry the tags of union members (`objective.max_drop.points`) and report every member of a
union. Here a field has the name that the user wrote (`objective.points`) and is reported once. Knows `JobSpec` and the
models it is given, nothing of HTTP: the command line must start without loading FastAPI.
"""

import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ranksieve.search.errors import RanksieveError, shortened
from ranksieve.service.spec import JobSpec

ROOT = "spec"  # name of a whole job file in errors
BODY = "body"  # name of any other whole document
_NOT_A_MAPPING = {"model_type", "model_attributes_type", "dict_type"}
_NOT_A_LIST = {"tuple_type", "list_type"}
_SHOWN_INPUT_CHARS = 80
MOST_TOLD = 20
"""Most wrong fields that are told at once; a suggestion for each takes time, and nobody reads more."""
_LONGEST_PATH = 500
"""Most characters of a field's name in an error."""

FieldPath = tuple[str | int, ...]
ErrorRecord = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Place:
    """Location in a job file or another body.

    `path` is what the user wrote, without union tags. `annotation` is the type there, `parent` the type around
    it. `union` is the length of `path` at the last union, if any.
    """

    path: FieldPath
    annotation: Any
    parent: Any = None
    union: int | None = None


def spec_errors(error: ValidationError) -> list[dict[str, str]]:
    """Turn a refused `JobSpec` into one entry per offending field.

    Args:
        error: What `JobSpec.model_validate` raised.

    Returns:
        `{"field": dotted path, "pointer": JSON pointer, "detail": what is wrong}`, in pydantic's order: the first
        `MOST_TOLD`, and one for the whole document that says how many more there are.
    """
    return name_errors(error.errors(include_url=False), JobSpec)


def name_errors(errors: Sequence[ErrorRecord], model: type[BaseModel]) -> list[dict[str, str]]:
    """Turn pydantic's error records of any model into one entry per field.

    Like `spec_errors`; each `loc` starts at the top of the model.
    """
    reasons: dict[FieldPath, list[str]] = {}
    shown: dict[FieldPath, str] = {}
    root, untold = root_of(model), 0
    for place, error in _furthest([(_locate(error["loc"], model), error) for error in errors]):
        if len(reasons) >= MOST_TOLD and place.path not in reasons:
            untold += 1
            continue
        path, reason, got = _describe(place, error)
        shown[path] = got
        if reason not in reasons.setdefault(path, []):
            reasons[path].append(reason)
    told = [
        {
            "field": dotted(path, root),
            "pointer": pointer(path),
            "detail": shortened(" or ".join(found)) + shown[path],
        }
        for path, found in reasons.items()
    ]
    return told + [{"field": root, "pointer": "", "detail": more_errors(untold)}] * bool(untold)


def more_errors(count: int) -> str:
    """Say how many more errors there are than are told."""
    return f"{count:,} more errors; correct the ones above first"


def root_of(model: type[BaseModel]) -> str:
    """Return the name of a whole document of this model in errors."""
    return ROOT if model is JobSpec else BODY


def dotted(path: FieldPath, root: str = ROOT) -> str:
    """Return a path as `task.choices.1`; `root` for the whole document."""
    return _cut(".".join(str(part) for part in path)) or root


def pointer(path: FieldPath) -> str:
    """Return a path as a JSON pointer, `/task/choices/1`; empty for the whole.

    Source: RFC 6901.
    """
    return _cut("".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path))


def _cut(path: str) -> str:
    return path if len(path) <= _LONGEST_PATH else f"{path[:_LONGEST_PATH]}…"


def suggestion(name: str, known: Collection[str]) -> str:
    """Suggest the known name most like an unknown one, or list all of them."""
    close = get_close_matches(name[:_LONGEST_PATH], known, n=1)
    return f"did you mean {close[0]}?" if close else f"expected {_one_of(known)}"


def _one_of(names: Collection[str]) -> str:
    return f"one of {', '.join(names)}" if names else "none"


def _locate(loc: FieldPath, model: type[BaseModel]) -> _Place:
    place = _Place(path=(), annotation=model)
    for part in loc:
        place = _step(place, part)
    return place


def _step(place: _Place, part: str | int) -> _Place:
    """Descend one element of a pydantic location; union tags add nothing to the path."""
    annotation = _bare(place.annotation)
    if _is_union(annotation):
        return _Place(path=place.path, annotation=_member(annotation, str(part)), union=len(place.path))
    if part == "[key]":
        return place
    path = (*place.path, part)
    return _Place(path=path, annotation=_child(annotation, part), parent=annotation, union=place.union)


def _furthest(
    found: Sequence[tuple[_Place, ErrorRecord]],
) -> Iterator[tuple[_Place, ErrorRecord]]:
    """Keep the errors of the union members that matched furthest.

    The other members are not what the user meant.
    """
    reach: dict[FieldPath, int] = {}
    for place, _ in found:
        if place.union is not None:
            union = place.path[: place.union]
            reach[union] = max(reach.get(union, 0), len(place.path))
    for place, error in found:
        if place.union is None or len(place.path) == reach[place.path[: place.union]]:
            yield place, error


def _describe(place: _Place, error: ErrorRecord) -> tuple[FieldPath, str, str]:
    """Return the path of one error, what is wrong there, and the value found."""
    kind, message = error["type"], str(error["msg"])
    got = _got(error.get("input"))
    if kind == "value_error":
        reason = message.removeprefix("Value error, ")
        named = _named_first(reason, place.annotation)
        return (*place.path, *named), reason.removeprefix(dotted(named)).lstrip(), ""
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tag = error["ctx"].get("tag")
        got = "; got nothing" if tag is None else _got(tag)
        return (*place.path, "kind"), f"expected one of {', '.join(_kinds(place.annotation))}", got
    if kind == "missing" and not place.path:
        return (), f"a body is required: JSON, with {_one_of(place.annotation.model_fields)}", ""
    if kind == "missing":
        return place.path, "this field is required", ""
    if kind == "extra_forbidden":
        return place.path, f"unknown field; {suggestion(str(place.path[-1]), place.parent.model_fields)}", ""
    if kind in _NOT_A_MAPPING:
        message = "expected a mapping of fields"
    elif kind in _NOT_A_LIST:
        message = "expected a list"
    elif kind == "string_type" and isinstance(error["input"], bool | int | float | date):
        message = "expected text; put quotes around it, YAML reads true, false, numbers and dates as such"
    return place.path, message, got


def _named_first(reason: str, annotation: Any) -> FieldPath:
    """Return the field named at the start of a whole model's message."""
    parts = reason.partition(" ")[0].split(".")
    for part in parts:
        found = [_child(member, part) for member in _members(annotation) if part in _names(member)]
        if not found:
            return ()
        annotation = found[0]
    return tuple(parts)


def _names(annotation: Any) -> Collection[str]:
    """Return the fields of a model, or the keys that a mapping may have."""
    if _is_model(annotation):
        return cast("type[BaseModel]", annotation).model_fields
    return get_args(get_args(annotation)[0]) if get_origin(annotation) is dict else ()


def _got(value: object) -> str:
    is_short = (
        not isinstance(value, Mapping | list | tuple) and len(shown := repr(value)) <= _SHOWN_INPUT_CHARS
    )
    return f"; got {shown}" if is_short else f"; got a {type(value).__name__}"


def _bare(annotation: Any) -> Any:
    """Strip `Annotated`, and `None` if that leaves one type."""
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if _is_union(annotation):
        members = [member for member in get_args(annotation) if member is not types.NoneType]
        return _bare(members[0]) if len(members) == 1 else annotation
    return annotation


def _members(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the annotation itself."""
    annotation = _bare(annotation)
    return get_args(annotation) if _is_union(annotation) else (annotation,)


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _child(annotation: Any, part: str | int) -> Any:
    """Return the type of a model's field, a mapping's value or a list's item."""
    if _is_model(annotation):
        field = annotation.model_fields.get(part)
        return Any if field is None else field.annotation
    inner = get_args(annotation)
    if get_origin(annotation) is dict:
        return inner[1]
    return inner[0] if inner else Any


def _member(union: Any, tag: str) -> Any:
    """Return the member of a union that pydantic calls `tag`.

    The tag is a discriminator's value or a type's name.
    """
    for member in _members(union):
        if tag in _kinds(member) or tag.partition("[")[0] == getattr(member, "__name__", None):
            return member
    return Any


def _kinds(annotation: Any) -> list[str]:
    """Return the discriminator values of a model, or of each model in a union."""
    annotation = _bare(annotation)
    if _is_union(annotation):
        return [kind for member in _members(annotation) for kind in _kinds(member)]
    kind = annotation.model_fields.get("kind") if _is_model(annotation) else None
    return list(get_args(kind.annotation)) if kind and get_origin(kind.annotation) is Literal else []


class SpecError(RanksieveError):
    """Refusal of a job file before it was sent.

    Args:
        errors: `{"field": dotted path, "detail": what is wrong}` for every offending field, and `"where"` with its
            place: `job.yaml:3:5`.
    """

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__("; ".join(map(line_of, errors)))
        self.errors = errors


def line_of(error: Mapping[str, str]) -> str:
    """Format one error of a `SpecError` as a line.

    With a known place, the file as a whole needs no name.
    """
    parts = (error.get("where"), error["field"], error["detail"])
    return ": ".join(part for part in parts if part and not (part == ROOT and "where" in error))
