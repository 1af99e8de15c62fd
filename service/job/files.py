"""Files that are written whole or not at all."""

import json
import os
import uuid
from pathlib import Path
from typing import Any


def read_json(file: Path) -> Any:
    """Read what `write_json` wrote; None if the file does not exist."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def write_json(file: Path, value: Any) -> None:
    """Write a value as JSON, like `write_bytes`."""
    write_bytes(file, json.dumps(value).encode())


def write_bytes(file: Path, content: bytes) -> None:
    """Write a file in one rename, safe against other writers.

    Creates the folder if it is missing.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
