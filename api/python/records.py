"""Sources of records: a named file or hub data set, or records in memory."""

import io
import json
import os
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from ranksieve.search.errors import InputError
from ranksieve.service.job.files import write_bytes

_SUFFIXES = (".jsonl", ".csv", ".parquet")


def named_source(data: object) -> dict[str, Any] | None:
    """Return the source that `data` names; None if they are records themselves.

    A text is a file if it ends like a file of records or if there is such a file, else a data set on the hub.
    """
    if isinstance(data, os.PathLike):
        return {"path": os.fspath(data)}
    if not isinstance(data, str):
        return None
    is_file = data.lower().endswith(_SUFFIXES) or os.path.exists(data)
    return {"path": data} if is_file else {"hub": {"id": data}}


def write_records(data: object, folder: Path) -> Path:
    """Write records to a file named by its content, so the same records are one file.

    Args:
        data: A list of dicts, a pandas DataFrame without its index, or a `datasets.Dataset`.
        folder: Folder of the file; made if missing.

    Returns:
        The file: jsonl for a list, else parquet.

    Raises:
        InputError: The records are of another type, or hold values that no file can.
    """
    try:
        suffix, content = _encoded(data)
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise InputError(
            "data", f"cannot be written to a file: {error}; give texts, numbers, and lists or dicts of them"
        ) from error
    file = folder / f"{sha256(content).hexdigest()[:32]}{suffix}"
    if not file.exists():
        write_bytes(file, content)
    return file


def _encoded(data: object) -> tuple[str, bytes]:
    if isinstance(data, list) and all(isinstance(record, Mapping) for record in data):
        lines = [json.dumps(dict(record), allow_nan=False) for record in data]
        return ".jsonl", "\n".join(lines).encode()
    buffer = io.BytesIO()
    parquet.write_table(_table(data), buffer)
    return ".parquet", buffer.getvalue()


def _table(data: object) -> Any:
    """Return a table of Arrow; raises `InputError` for anything else.

    Neither library is imported here. A caller who holds one of their objects has imported it.
    """
    pandas, datasets = sys.modules.get("pandas"), sys.modules.get("datasets")
    if pandas is not None and isinstance(data, pandas.DataFrame):
        return pyarrow.Table.from_pandas(data, preserve_index=False)
    if datasets is not None and isinstance(data, datasets.Dataset):
        return data.with_format("arrow")[:]
    raise InputError(
        "data",
        "expected a file, the name of a data set on the hub, a list of dicts, a pandas DataFrame or a "
        f"datasets.Dataset; got {type(data).__name__}",
    )
