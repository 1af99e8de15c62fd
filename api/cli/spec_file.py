"""Reader of job files: YAML or JSON in, a validated `JobSpec` out.

Errors name the file, the line and the column. Local paths in a job file are relative to its own folder, so that it
can travel with its data.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ranksieve.api.spec_errors import ROOT, SpecError, spec_errors
from ranksieve.api.spec_text import MalformedError, Place, SpecText
from ranksieve.search.errors import InputError
from ranksieve.service.spec import JobSpec


def load_spec(
    path: Path, roots: Sequence[Path] | None = None, *, changes: Sequence[str] | None = None
) -> JobSpec:
    """Read and validate a job file.

    Args:
        path: A YAML or JSON file (JSON is YAML).
        roots: Resolved folders that must hold its local files; None leaves the check to the server.
        changes: Values that replace those of the file, each a dotted path, `=` and a value in YAML.

    Returns:
        The spec, with every local path absolute.

    Raises:
        SpecError: The file is not YAML, or fields are wrong; names each field.
        InputError: The file cannot be read, is nested too deeply, or has a character that YAML forbids.
    """
    text = _parsed(path)
    try:
        for change in changes or ():
            _change(text.value, change)
        spec = with_absolute_paths(validated(text.value), path.resolve().parent)
        if roots is not None:
            _refuse_outside(spec, roots)
    except SpecError as error:
        changed = tuple(change.partition("=")[0] for change in changes or ())
        raise SpecError(
            [{**one, "where": _source(path, text, one, changed)} for one in error.errors]
        ) from None
    return spec


def validated(document: Any) -> JobSpec:
    """Validate a document as a spec.

    Raises:
        SpecError: Fields are wrong; names each one.
    """
    try:
        return JobSpec.model_validate(document)
    except ValidationError as error:
        raise SpecError(spec_errors(error)) from None


def with_absolute_paths(spec: JobSpec, folder: Path) -> JobSpec:
    """Return a spec whose local paths, relative to `folder` so far, are absolute.

    Raises:
        InputError: A path begins with the home of an unknown user.
    """
    document = spec.model_dump(mode="json", exclude_unset=True)
    for _, holder, key in _local_paths(document):
        try:
            holder[key] = str(folder / Path(holder[key]).expanduser())
        except RuntimeError as error:
            raise InputError(ROOT, f"cannot expand the path {holder[key]!r}: {error}") from None
    return validated(document)


def named_paths(spec: JobSpec) -> list[Path]:
    """Return every local path of a spec."""
    document = spec.model_dump(mode="json", exclude_unset=True)
    return [Path(holder[key]) for _, holder, key in _local_paths(document)]


def _parsed(path: Path) -> SpecText:
    try:
        return SpecText(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(ROOT, f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(ROOT, f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except MalformedError as error:
        if error.place is None:
            raise InputError(ROOT, f"{path}: {error.message}") from None
        where = _where(path, error.place)
        raise SpecError([{"field": ROOT, "detail": error.message, "where": where}]) from None


def _change(document: Any, change: str) -> None:
    """Set one field of a document, in place.

    Raises:
        InputError: The change has no `=`, its value is not YAML, or a part of its path holds no fields.
    """
    name, equals, value = change.partition("=")
    *parents, last = name.split(".")
    if not equals or not all((*parents, last)):
        raise InputError("--set", f"expected FIELD=VALUE, e.g. objective.points=1; got {change!r}")
    section = document
    for depth, part in enumerate((*parents, last)):
        if not isinstance(section, dict):
            holder = ".".join(parents[:depth]) or ROOT
            raise InputError(name, f"--set cannot set a field of {holder}, which is no mapping of fields")
        if depth < len(parents):
            section = section.setdefault(part, {})
    try:
        section[last] = SpecText(value).value
    except MalformedError as error:
        raise InputError(name, f"--set has a value that is no YAML: {error.message}") from None


def _source(path: Path, text: SpecText, error: Mapping[str, str], changed: Sequence[str]) -> str:
    """Return where a wrong field was given: its place in the file, or `--set`."""
    if any(f"{error['field']}.".startswith(f"{name}.") for name in changed):
        return "--set"
    return _where(path, text.place(error["pointer"]))


def _where(path: Path, place: Place) -> str:
    return f"{path}:{place.line}:{place.column}"


def _local_paths(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield every local path of a spec: pointer, the mapping it is in, and its key."""
    data = document["task"]["data"]
    holders = {
        "/model": document["model"],
        "/task/data/source": data.get("source"),
        **{f"/task/data/files/{split}": source for split, source in data.get("files", {}).items()},
        **{f"/search/seeds/{i}": one for i, one in enumerate(document.get("search", {}).get("seeds", ()))},
    }
    for pointer, holder in holders.items():
        for key in ("path", "adapter"):
            if holder and holder.get(key) is not None:
                yield pointer, holder, key


def _refuse_outside(spec: JobSpec, roots: Sequence[Path]) -> None:
    """Refuse local files that a command may not read.

    Raises:
        SpecError: Names each file, the folders that may be read, and how to allow more.
    """
    errors = []
    for pointer, holder, key in _local_paths(spec.model_dump(mode="json", exclude_unset=True)):
        if (outside := _outside(Path(holder[key]), roots)) is not None:
            detail = (
                f"{str(outside)!r} is outside the folders that this command may read: those of the job file and of "
                f"--data-dir, the current one and every --root ({', '.join(map(str, roots))}); allow it with "
                f"--root {outside.parent}"
            )
            pointer = f"{pointer}/{key}"
            errors.append({"field": pointer[1:].replace("/", "."), "pointer": pointer, "detail": detail})
    if errors:
        raise SpecError(errors)


def _outside(path: Path, roots: Sequence[Path]) -> Path | None:
    """Return what a path, or a file in its folder, resolves to outside all roots.

    None if everything is inside.
    """
    try:
        for file in (path, *(path.iterdir() if path.is_dir() else ())):
            real: Path = file.resolve()
            if real.exists() and not any(real.is_relative_to(root) for root in roots):
                return real
    except (OSError, RuntimeError, ValueError):
        pass  # reported by the reader of the file
    return None
