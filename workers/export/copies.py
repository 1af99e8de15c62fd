"""Copies of an exported folder, which appear whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ranksieve.search.errors import InputError
from ranksieve.workers.cache.manifest import flush_files
from ranksieve.workers.export.reader import read_values


def require_new(output: Path) -> None:
    """Check that the folder of a copy does not exist.

    Raises:
        InputError: It does.
    """
    if output.exists():
        raise InputError("output", f"{output} exists already; give a folder to be made")


def refuse_quantized(folder: Path) -> None:
    """Refuse an export of few bits, whose weights have lost what a copy should have.

    Raises:
        InputError: The folder is one.
    """
    if "quantization_config" in read_values(folder / "config.json"):
        raise InputError("model_dir", f"{folder} is quantized already; give the export that it was made from")


@contextmanager
def copied(folder: Path, output: Path, *without: str) -> Iterator[Path]:
    """Copy a folder and yield the copy, which gets its name when the block ends.

    Args:
        folder: Folder to copy.
        output: New folder.
        without: Patterns of files to leave out.
    """
    scratch = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        shutil.copytree(folder, scratch, ignore=shutil.ignore_patterns(*without))
        yield scratch
        flush_files(scratch)
        scratch.rename(output)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
