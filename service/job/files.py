"""Files of a job's folder: there whole or not at all."""

import json
import os
import uuid
from pathlib import Path
from typing import Any


def read_json(file: Path) -> Any:
    """What `write_json` wrote; None where there is no such file."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def write_json(file: Path, value: Any) -> None:
    """Writes a value as JSON, in one rename, whoever else writes it; makes the folder where it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("w", encoding="utf-8") as stream:
            json.dump(value, stream)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
