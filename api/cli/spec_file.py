"""Reads a job file from disk: YAML or JSON in, a validated `JobSpec` out.

Local paths in it count from the file's own folder, so that a job file can travel with its data.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from ranksieve.api.spec_errors import ROOT, spec_errors
from ranksieve.search.errors import InputError, RanksieveError
from ranksieve.service.spec import JobSpec

LOCAL = (
    ("model", "path"),
    ("model", "gguf"),
    ("task", "data", "source", "path"),
    ("search", "seeds", "path"),
)
"""Where local paths are, besides those of `task.data.files`."""


class SpecError(RanksieveError):
    """A job file was refused before it was sent.

    Args:
        errors: `{"field": dotted path, "detail": what is wrong}` for every offending field.
    """

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__("; ".join(f"{error['field']}: {error['detail']}" for error in errors))
        self.errors = errors


class _RepeatedKeyError(Exception):
    """A mapping has a key twice."""


class _UniqueKeys(yaml.SafeLoader):
    """YAML, whose mappings have no key twice; PyYAML would take the last one for all."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping, before other mappings are merged into it: keys of those may be given again."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # PyYAML refuses a key that is no text
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in lines:
                raise _RepeatedKeyError(
                    f"{key.value} is given in line {lines[name]} and again in line {line}"
                )
            lines[name] = line
        return node


def load_spec(path: Path) -> JobSpec:
    """Read and validate a job file.

    Args:
        path: A YAML or JSON file (JSON is YAML).

    Returns:
        The spec, with every local path absolute.

    Raises:
        SpecError: A field is wrong; names each of them.
        InputError: The file cannot be read, is not YAML, or is nested too deeply.
    """
    try:
        return validated(resolve_paths(read_document(path), path.resolve().parent))
    except RecursionError:
        raise InputError(ROOT, f"{path} has a part that is nested too deeply, or in itself") from None


def validated(document: Any) -> JobSpec:
    """A document as a spec.

    Raises:
        SpecError: A field is wrong; names each of them.
    """
    try:
        return JobSpec.model_validate(document)
    except ValidationError as error:
        raise SpecError(spec_errors(error)) from None


def read_document(path: Path) -> Any:
    """The content of a YAML or JSON file, unchecked.

    Raises:
        InputError: The file cannot be read or is not YAML.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except OSError as error:
        raise InputError(ROOT, f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(ROOT, f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except _RepeatedKeyError as error:
        raise InputError(ROOT, f"{path}: {error}; keep one, with all that belongs there") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a timestamp or number YAML cannot hold
        raise InputError(ROOT, f"{path} is not valid YAML or JSON: {' '.join(str(error).split())}") from None


def resolve_paths(document: Any, folder: Path) -> Any:
    """A copy of an unchecked spec whose local paths are absolute, counted from `folder`.

    Anything that does not look like a spec is returned as it is: validation names what is wrong.
    """
    files = _at(document, ("task", "data", "files"))
    of_files = (
        [("task", "data", "files", split, "path") for split in files] if isinstance(files, Mapping) else []
    )
    for keys in (*LOCAL, *of_files):
        document = _replaced(document, keys, folder)
    return document


def _at(document: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        if not isinstance(document, Mapping):
            return None
        document = document.get(key)
    return document


def _replaced(document: Any, keys: tuple[str, ...], folder: Path) -> Any:
    """A copy of nested mappings with the path at `keys` made absolute, where there is one; of a list in all items."""
    if not keys:
        return _absolute(document, folder) if isinstance(document, str) else document
    if isinstance(document, list):
        return [_replaced(item, keys, folder) if isinstance(item, Mapping) else item for item in document]
    key, *rest = keys
    if not isinstance(document, Mapping) or key not in document:
        return document
    return {**document, key: _replaced(document[key], tuple(rest), folder)}


def _absolute(path: str, folder: Path) -> str:
    try:
        return str(folder / Path(path).expanduser())
    except RuntimeError as error:
        raise InputError(ROOT, f"cannot tell what {path!r} means: {error}") from None
