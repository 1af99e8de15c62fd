"""Reads a job file from disk: YAML or JSON in, a validated `JobSpec` out.

Local paths in it count from the file's own folder, so that a job file can travel with its data.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from api.spec_errors import ROOT, spec_errors
from search.errors import InputError, RanksieveError
from service.spec import JobSpec


class SpecError(RanksieveError):
    """A job file was refused before it was sent.

    Args:
        errors: `{"field": dotted path, "detail": what is wrong}` for every offending field.
    """

    def __init__(self, errors: list[dict[str, str]]) -> None:
        super().__init__("; ".join(f"{error['field']}: {error['detail']}" for error in errors))
        self.errors = errors


def load_spec(path: Path) -> JobSpec:
    """Read and validate a job file.

    Args:
        path: A YAML or JSON file (JSON is YAML).

    Returns:
        The spec, with every local path absolute.

    Raises:
        SpecError: A field is wrong; names each of them.
        InputError: The file cannot be read or is not YAML.
    """
    document = resolve_paths(read_document(path), path.resolve().parent)
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
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(ROOT, f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(ROOT, f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a timestamp or number YAML cannot hold
        raise InputError(ROOT, f"{path} is not valid YAML or JSON: {' '.join(str(error).split())}") from None


def resolve_paths(document: Any, folder: Path) -> Any:
    """A copy of an unchecked spec whose local paths are absolute, counted from `folder`.

    Anything that does not look like a spec is returned as it is: validation names what is wrong.
    """
    document = _replaced(document, ("model", "path"), folder)
    document = _replaced(document, ("model", "gguf"), folder)
    document = _replaced(document, ("task", "data", "source", "path"), folder)
    files = _at(document, ("task", "data", "files"))
    for split in files if isinstance(files, Mapping) else ():
        document = _replaced(document, ("task", "data", "files", split, "path"), folder)
    return document


def _at(document: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        if not isinstance(document, Mapping):
            return None
        document = document.get(key)
    return document


def _replaced(document: Any, keys: tuple[str, ...], folder: Path) -> Any:
    """A copy of nested mappings with the path at `keys` made absolute, where there is one."""
    if not keys:
        return str(folder / Path(document).expanduser()) if isinstance(document, str) else document
    key, *rest = keys
    if not isinstance(document, Mapping) or key not in document:
        return document
    return {**document, key: _replaced(document[key], tuple(rest), folder)}
