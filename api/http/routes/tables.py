"""Tables: all rows of a list as one CSV or Parquet file.

A table has the rows of the JSON pages. It is sent while it is written, and holds one batch of rows at a time. The first
batch is read before the answer begins; if a later one cannot be read, the transfer breaks off.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from fastapi import Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import from_json

from ranksieve.search.errors import InputError

BATCH = 250
"""Rows that are read and held at once.

With 210 matrices a batch keeps other requests waiting for 25 to 48 ms, about as long as a JSON page of 1000; batches of
1000 do for 70 ms.
"""

Format = Literal["json", "csv", "parquet"]
Rows = list[dict[str, Any]]

FormatQuery = Annotated[
    Format | SkipJsonSchema[None],
    Query(
        description="`csv` and `parquet` are tables of all rows, without `limit` and `after`; by default what `Accept` "
        "names, else `json`. Lists are JSON text in CSV."
    ),
]

_CSV, _PARQUET = "text/csv", "application/vnd.apache.parquet"
_FORMATS: Mapping[str, Format] = {"application/json": "json", _CSV: "csv", _PARQUET: "parquet"}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Characters that a spreadsheet may take for the start of a formula."""

ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page, or a table of all rows.",
        "content": {
            _CSV: {"schema": {"type": "string"}},
            _PARQUET: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
"""Answer of a route with tables, for OpenAPI."""


def wanted(request: Request, format: Format | None) -> Format:
    """Return the wanted format: of the parameter, or the first of `Accept`.

    Raises:
        InputError: A table is wanted, but only a page of it.
    """
    kind = _accepted(request.headers.get("accept", "")) if format is None else format
    if kind != "json":
        for name in ("limit", "after"):
            if name in request.query_params:
                raise InputError(name, f"not allowed with format {kind}, which has all rows; leave it out")
    return kind


def _accepted(header: str) -> Format:
    kinds = (one.partition(";")[0].strip().lower() for one in header.split(","))
    return next((_FORMATS[kind] for kind in kinds if kind in _FORMATS), "json")


def pages(read: Callable[[Any], Rows], key: str, start: int | None) -> Iterator[Rows]:
    """Yield the pages of a list up to the last.

    Args:
        read: Returns the page after a value of `key`.
        key: Field that pages are continued by.
        start: Value before the first page.
    """
    while page := read(start):
        yield page
        start = page[-1][key]


def table(
    kind: Format, page: type[BaseModel], batches: Iterator[Rows], job_id: str, fields: Iterable[str] = ()
) -> StreamingResponse:
    """Return the answer with a table, once its first batch is read.

    Args:
        kind: `csv` or `parquet`.
        page: Body of a JSON answer, whose one field is the list of rows.
        batches: Rows; they may have more fields than are wanted.
        job_id: Job of the rows.
        fields: Names of the columns, in order; empty: all.
    """
    first = next(batches, [])
    ((name, field),) = page.model_fields.items()
    types = get_type_hints(get_args(field.annotation)[0])
    columns = {column: types[column] for column in (dict.fromkeys(fields) or types)}
    rows = (from_json(page(**{name: batch}).model_dump_json())[name] for batch in chain([first], batches))
    headers = {
        "Content-Disposition": f'attachment; filename="{name}-{job_id}.{kind}"',
        "X-Content-Type-Options": "nosniff",
    }
    if kind == "csv":
        return StreamingResponse(_csv(columns, rows), media_type=_CSV, headers=headers)
    return StreamingResponse(_parquet(columns, rows), media_type=_PARQUET, headers=headers)


def _csv(columns: Iterable[str], batches: Iterable[Rows]) -> Iterator[bytes]:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    for rows in batches:
        writer.writerows([_cell(row[name]) for name in columns] for row in rows)
        yield text.getvalue().encode()
        text.seek(0)
        text.truncate()


def _cell(value: Any) -> str:
    """Return a value as a cell.

    Text that begins like a formula gets an apostrophe before it.
    """
    if isinstance(value, str):
        return f"'{value}" if value.startswith(_FORMULA) else value
    return "" if value is None else json.dumps(value)


def _parquet(columns: Mapping[str, Any], batches: Iterable[Rows]) -> Iterator[bytes]:
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema({name: _arrow_type(hint) for name, hint in columns.items()})
    file = io.BytesIO()
    with parquet.ParquetWriter(file, schema) as writer:
        for rows in batches:
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
            yield _taken(file)
    yield _taken(file)


def _taken(file: io.BytesIO) -> bytes:
    """Return what was written to a file, and empty it."""
    written = file.getvalue()
    file.seek(0)
    file.truncate()
    return written


def _arrow_type(hint: Any) -> Any:
    """Return the Arrow type of a field's type, which may be optional or a list."""
    import pyarrow

    plain = {
        bool: pyarrow.bool_(),
        int: pyarrow.int64(),
        float: pyarrow.float64(),
        str: pyarrow.string(),
    }
    if hint in plain:
        return plain[hint]
    (inner,) = (_arrow_type(one) for one in get_args(hint) if one is not NoneType)
    return pyarrow.list_(inner) if get_origin(hint) is list else inner
