"""Records: one dict per line, row or item of a file or a hub data set."""

import codecs
import csv
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from pydantic_core import from_json

from ranksieve.search.errors import InputError
from ranksieve.workers.machine.child import step
from ranksieve.workers.types.plan import RecordSource

Record = dict[str, Any]

MAX_RECORDS = 5_000_000
MAX_BYTES = 4 * 2**30
"""Largest size of a parquet file, unpacked.

Repeated texts take no room in the file.
"""

ROWS_AT_ONCE = 1000

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def read(source: RecordSource) -> list[Record]:
    """Read every record of a source.

    Args:
        source: A file by absolute path, or one split of a hub data set.

    Returns:
        At least one record, in file order.

    Raises:
        InputError: On `<source.field>.path` or `.hub`, if the source cannot be read, is not what its
            suffix says, is empty or holds more than `MAX_RECORDS` records.
    """
    step(source.field, f"reading {describe(source)}")
    if source.path is None:
        return _collect(_hub(source), f"{source.field}.hub", describe(source))
    return _read_file(source.path, f"{source.field}.path")


def first(path: Path, field: str, count: int) -> list[Record]:
    """Read at most `count` records of a file, and not more of the file than needed.

    Raises:
        InputError: On `field`, for the same reasons as `read`.
    """
    return _read_file(path, field, count)


def describe(source: RecordSource) -> str:
    """Return the name of a source for messages: its file name or its hub id."""
    return source.path.name if source.path is not None else str(source.hub_id)


def _collect(records: Iterator[Record], field: str, name: str) -> list[Record]:
    collected: list[Record] = []
    for record in records:
        if len(collected) == MAX_RECORDS:
            raise InputError(field, f"{name} holds more than {MAX_RECORDS:,} records; give a smaller sample")
        collected.append(record)
    if not collected:
        raise InputError(field, f"{name} holds no records; expected at least one")
    return collected


def _read_file(path: Path, field: str, most: int | None = None) -> list[Record]:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            field, f"a file of records ends in {', '.join(_READERS)}, got {path.name}; convert or rename it"
        )
    try:
        if not path.exists():
            raise InputError(field, f"no file at {path}; check the path")
        if not path.is_file():
            raise InputError(field, f"{path} is not a file; name one file of records")
        with path.open("rb") as stream:
            return _collect(islice(reader(stream, path.name, field), most), field, path.name)
    except OSError as error:
        raise InputError(field, f"cannot read {path}: {error.strerror or error}") from error


def _lines(stream: BinaryIO, name: str, field: str) -> Iterator[str]:
    """Yield the lines of a UTF-8 file with their ends, without a byte order mark.

    Only a newline ends a line.
    """
    for number, raw in enumerate(stream, 1):
        try:
            yield raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                field, f"{name} line {number} is not UTF-8 ({error.reason}); save the file as UTF-8"
            ) from error


def _jsonl(stream: BinaryIO, name: str, field: str) -> Iterator[Record]:
    for number, line in enumerate(stream, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if not line.strip():
            continue
        where = f"{name} line {number}"
        try:
            record = from_json(line.rstrip(), allow_inf_nan=False)
        except ValueError as error:
            reason = str(error).replace(" at line 1 column", " at column")
            raise InputError(
                field,
                f"{where} is not JSON: {reason}; write one object per line, in UTF-8, with null for NaN and no half "
                "of a surrogate pair",
            ) from error
        if not isinstance(record, dict):
            raise InputError(
                field, f'{where} is a JSON {_json_type(record)}; expected an object, e.g. {{"text": …}}'
            )
        yield record


def _json_type(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _csv(stream: BinaryIO, name: str, field: str) -> Iterator[Record]:
    rows = csv.reader(_lines(stream, name, field), strict=True)
    header: list[str] | None = None
    try:
        for row in rows:
            if not row:
                continue
            if header is None:
                header = _header(row, name, field)
                continue
            if len(row) != len(header):
                raise InputError(
                    field,
                    f"{name} line {rows.line_num} has {len(row)} fields, expected the header's "
                    f"{len(header)}; quote fields that hold commas",
                )
            yield dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise InputError(
            field, f"{name} line {rows.line_num} is not csv: {error}; fix it or save as .jsonl"
        ) from error


def _header(row: list[str], name: str, field: str) -> list[str]:
    if "" in row or len(set(row)) < len(row):
        raise InputError(field, f"the header of {name} must name every column once, got {row}")
    return row


def _parquet(stream: BinaryIO, name: str, field: str) -> Iterator[Record]:
    import pyarrow as arrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(stream) as table:
            columns = table.schema_arrow.names
            if len(set(columns)) < len(columns):
                raise InputError(field, f"{name} must name every column once, got {columns}")
            left = MAX_BYTES
            for batch in table.iter_batches(ROWS_AT_ONCE):
                left -= sum(map(_unpacked_bytes, batch.columns))
                if left < 0:
                    raise InputError(
                        field, f"{name} holds more than {MAX_BYTES:,} bytes; give a smaller sample"
                    )
                yield from batch.to_pylist()
    except (arrow.ArrowException, ValueError, OverflowError) as error:
        raise InputError(field, f"{name} is not a parquet file that can be read: {error}") from error


def _unpacked_bytes(column: Any) -> int:
    """Return about how many bytes a column takes when rows share no values."""
    from pyarrow import DictionaryArray, compute, types

    texts = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)
    if not isinstance(column, DictionaryArray) or not any(one(column.dictionary.type) for one in texts):
        return int(column.nbytes)
    lengths = compute.binary_length(column.dictionary).take(column.indices)
    return int(compute.sum(lengths).as_py() or 0)


_READERS: Mapping[str, Callable[[BinaryIO, str, str], Iterator[Record]]] = MappingProxyType(
    {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
)


def _without_links(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    """Return a member of an archive if it may be unpacked, or None for links.

    A link may lead out of the folder. The library and Python's own filters take a link to a missing target for one
    into the archive. The library unpacks archives whatever their name.
    """
    return None if member.issym() or member.islnk() else tarfile.data_filter(member, folder)


def _hub(source: RecordSource) -> Iterator[Record]:
    field = f"{source.field}.hub"
    hub_id = source.hub_id or ""
    if not _HUB_ID.fullmatch(hub_id) or Path(hub_id).exists():
        # load_dataset would read the server's own files for a folder's path or a bare format name.
        raise InputError(
            f"{field}.id", f"expected owner/name of a data set on the hub, got {hub_id!r}; give files as path"
        )
    from datasets import load_dataset

    from ranksieve.workers.model.hub import cause_of, files_elsewhere

    tarfile.TarFile.extraction_filter = staticmethod(_without_links)  # the library sets none
    try:
        if elsewhere := files_elsewhere(hub_id, source.revision):
            raise InputError(
                f"{field}.id",
                f"{hub_id} names {elsewhere[0]!r} as its data; expected files of its own: download what you "
                "need, and give it as path",
            )
        rows = load_dataset(hub_id, source.config, split=source.split, revision=source.revision)
        # Raw tables, so that unused images and sound are not decoded.
        for table in rows.with_format("arrow").iter(ROWS_AT_ONCE):
            yield from table.to_pylist()
    except InputError:
        raise
    except Exception as error:  # a damaged data set, or one that needs another library, raises anything
        wanted = f"split {source.split!r}" + (f" of config {source.config!r}" if source.config else "")
        raise InputError(
            field,
            f"cannot load {wanted} of {hub_id}: {error}; check id, config, split and revision, and that the "
            "hub can be reached (HF_TOKEN for gated data), or download it and give a file as path",
        ) from cause_of(error)
