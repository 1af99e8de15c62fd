"""Manifest of a folder: checksums that distinguish a whole one from a damaged one."""

import hashlib
import json
import logging
import os
from pathlib import Path

import xxhash

from ranksieve.workers.cache.checksums import Checksums

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"


def checksum(file: Path) -> str:
    """Return the checksum of a file's bytes, in hex.

    xxHash detects damage, not forgery, and takes a small part of sha256's time.
    """
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, xxhash.xxh3_128).hexdigest()


def is_whole(folder: Path, known: Checksums) -> bool:
    """Return whether all files of a folder are as its manifest lists them."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        if not (isinstance(manifest, dict) and manifest):
            raise ValueError(f"{MANIFEST} lists no files")
        found = known.of(folder.name, [folder / name for name in manifest], checksum)
        return found == list(manifest.values())
    except (OSError, ValueError) as error:
        logger.warning("cannot check %s: %s", folder, error)
        return False


def flush_files(folder: Path) -> list[Path]:
    """Write all files of a folder to the disk, and return them.

    A rename of the folder does not wait for that.
    """
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    return files


def write_manifest(folder: Path) -> dict[str, str]:
    """Write the checksums of a folder's files beside them, and flush everything.

    Returns:
        Name of each file → its checksum.
    """
    checksums = {str(file.relative_to(folder)): checksum(file) for file in flush_files(folder)}
    with (folder / MANIFEST).open("w") as stream:
        json.dump(checksums, stream)
        stream.flush()
        os.fsync(stream.fileno())
    return checksums
