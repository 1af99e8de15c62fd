"""Files that the client writes: their folder, their names, the format of a table."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ranksieve.search.errors import InfrastructureError, InputError


def table_format(path: Path) -> str:
    """Return the format of a table by its file's suffix.

    Raises:
        InputError: The suffix is another one.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise InputError("path", f"expected a name that ends in .csv or .parquet; got {path.name!r}")
    return path.suffix.removeprefix(".")


def refuse_others(targets: Sequence[Path]) -> None:
    """Check that the target folders hold no other files: transformers may read them.

    Hidden files are allowed.

    Raises:
        InputError: There are other files.
    """
    for folder in {target.parent for target in targets if target.parent.is_dir()}:
        beside = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
        if others := sorted(set(beside) - set(targets)):
            raise InputError("output", f"must hold no other model; {others[0]} is not of this one")


def inside(directory: Path, name: str) -> Path:
    """Return a file's path in the folder; refuse names that point out of it."""
    parts = PurePosixPath(name).parts
    unsafe = not parts or name.startswith("/") or "\\" in name or ":" in name or ".." in parts
    target = directory.resolve().joinpath(*parts)
    if unsafe or not target.resolve().is_relative_to(directory.resolve()):
        raise InfrastructureError(f"the server offered a file outside the target folder: {name!r}")
    return target
