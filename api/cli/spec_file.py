"""Read a job file: YAML or JSON in, a validated `JobSpec` out.

Errors name the file, the line and the column. Local paths in a job file count from its own folder, so that it can
travel with its data.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, StreamMark, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from ranksieve.api.spec_errors import ROOT, spec_errors
from ranksieve.search.errors import InputError, RanksieveError
from ranksieve.service.spec import JobSpec


class SpecError(RanksieveError):
    """A job file was refused before it was sent.

    Args:
        errors: `{"field": dotted path, "detail": what is wrong}` for every offending field, and `"where"` it stands:
            `job.yaml:3:5`.
    """

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__("; ".join(map(line_of, errors)))
        self.errors = errors


def line_of(error: Mapping[str, str]) -> str:
    """One error of a `SpecError` as a line; where its place is known, the file as a whole needs no name."""
    parts = (error.get("where"), error["field"], error["detail"])
    return ": ".join(part for part in parts if part and not (part == ROOT and "where" in error))


def load_spec(path: Path) -> JobSpec:
    """Read and validate a job file.

    Args:
        path: A YAML or JSON file (JSON is YAML).

    Returns:
        The spec, with every local path absolute.

    Raises:
        SpecError: The file is not YAML, or fields are wrong; names each of them.
        InputError: The file cannot be read or is nested too deeply.
    """
    try:
        node, document = _parse(path)
        try:
            spec = _with_absolute_paths(validated(document), path.resolve().parent)
        except SpecError as error:
            located = [{**one, "where": _where(path, _mark(node, one["pointer"]))} for one in error.errors]
            raise SpecError(located) from None
    except RecursionError:
        raise InputError(ROOT, f"{path} has a part that is nested too deeply, or in itself") from None
    return spec


def validated(document: Any) -> JobSpec:
    """A document as a spec.

    Raises:
        SpecError: A field is wrong; names each of them.
    """
    try:
        return JobSpec.model_validate(document)
    except ValidationError as error:
        raise SpecError(spec_errors(error)) from None


class _Constructor(SafeConstructor):
    """Python values of nodes; every error has a place."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # such as an impossible date
            raise ConstructorError(None, None, str(error), node.start_mark) from None

    def flatten_mapping(self, node: Any) -> None:
        """Refuse merge keys: YAML 1.2 has none, and merges of merges grow without end."""
        for key, _ in node.value:
            if key.value == "<<":
                raise ConstructorError(None, None, "<< is not supported; repeat the fields", key.start_mark)


def _parse(path: Path) -> tuple[Node | None, Any]:
    """The content of a YAML file: nodes, which know their places, and the values they stand for."""
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text)
        return node, None if node is None else yaml.constructor.construct_document(node)
    except OSError as error:
        raise InputError(ROOT, f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(ROOT, f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except MarkedYAMLError as error:
        mark, found = error.problem_mark, f"{error.context or ''} {error.problem}"
        detail = found.partition(" with value")[0].strip()  # of a key given twice, which may be long
        if mark is not None and "{{" in "".join(text.splitlines()[mark.line : mark.line + 1]):
            detail += '; quote the template, e.g. answer: "{{ label }}"'
        raise SpecError([{"field": ROOT, "detail": detail, "where": _where(path, mark)}]) from None
    except (YAMLError, TypeError) as error:  # a character that no YAML may have, or a list as a key
        raise InputError(ROOT, f"{path} is not valid YAML or JSON: {' '.join(str(error).split())}") from None


def _where(path: Path, mark: StreamMark | None) -> str:
    return f"{path}:1:1" if mark is None else f"{path}:{mark.line + 1}:{mark.column + 1}"


def _mark(node: Node | None, pointer: str) -> StreamMark | None:
    """Where the field of a JSON pointer stands, or what is around it where it is missing."""
    mark = None if node is None else node.start_mark
    for part in pointer.split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, MappingNode):
            found = next((pair for pair in node.value if pair[0].value == name), None)
        else:
            items = node.value if isinstance(node, SequenceNode) else ()
            found = next(((item, item) for index, item in enumerate(items) if str(index) == name), None)
        if found is None:
            break
        mark, node = found[0].start_mark, found[1]
    return mark


def _with_absolute_paths(spec: JobSpec, folder: Path) -> JobSpec:
    document = spec.model_dump(mode="json", exclude_unset=True)
    data, search = document["task"]["data"], document.get("search", {})
    sources = (data.get("source"), *data.get("files", {}).values())
    for holder in filter(None, (document["model"], *sources, *search.get("seeds", ()))):
        for key in {"path", "gguf"} & holder.keys():
            if holder[key] is not None:
                holder[key] = _absolute(holder[key], folder)
    return validated(document)


def _absolute(path: str, folder: Path) -> str:
    try:
        return str(folder / Path(path).expanduser())
    except RuntimeError as error:
        raise InputError(ROOT, f"cannot tell what {path!r} means: {error}") from None
