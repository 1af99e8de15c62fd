"""Hostile files of records, named by job files that are otherwise right."""

import gzip
import os

import pyarrow
from hostile.inputs import Draw, Input, Make
from pyarrow import parquet

SPARSE_BYTES = 2**40


def _records(draw: Draw, suffix: str, content: bytes) -> Input:
    file = draw.target.root / f"records-{draw.number}{suffix}"
    file.write_bytes(content)
    return draw.job({"task.data.source.path": str(file)})


def _lines(draw: Draw) -> Input:
    right = b'{"text": "film 1", "label": "good"}\n'
    lines = [
        b"\xff\xfe", b"\0" * 1000, b'{"text": "\\ud800", "label": "good"}', b'{"text": NaN, "label": "good"}', b"7",
        b'{"text": "film", "label": null}', b'{"text": "film"}', b'{"label": "evil", "text": "film"}', b"[" * 10**6,
        b'{"text":' * 10**5, b"9" * 10**6, b'{"text": "' + b"x" * 2**25, b'{"text": "film", "label": {"a": []}}',
        b'{"text": "' + b"film " * 10**5 + b'", "label": "good"}', b'{"__class__": 1}', b"'",
    ]  # fmt: skip
    return _records(draw, ".jsonl", right * draw.rng.randint(0, 60) + draw.rng.choice(lines) + b"\n" + right)


def _tables(draw: Draw) -> Input:
    contents = [
        b"text,label\n" + b'"film', b"text,label\nfilm\n", b"text,text\nfilm,good\n", b",\n,\n", b"text,label\n" * 2,
        b"text,label\n" + b"x" * 2**20 + b",good\n", b"a," * 10**5 + b"b\n" + b"a," * 10**5 + b"b\n", b"\0\0,\0\n",
        b"\xff\xfet\0e\0", b"text;label\nfilm;good\n",
    ]  # fmt: skip
    return _records(draw, ".csv", draw.rng.choice(contents))


def _sparse(draw: Draw) -> Input:
    file = draw.target.root / f"sparse-{draw.number}{draw.rng.choice(['.jsonl', '.csv', '.parquet'])}"
    with file.open("wb") as stream:
        stream.truncate(SPARSE_BYTES)
    return draw.job({"task.data.source.path": str(file)})


def _parquet(draw: Draw) -> Input:
    file = draw.target.root / f"records-{draw.number}.parquet"
    if draw.rng.random() < 0.5:
        values = pyarrow.DictionaryArray.from_arrays([0] * 4000, ["x" * 2**20])
        parquet.write_table(pyarrow.table({"text": values, "label": ["good"] * 4000}), file)
        return draw.job({"task.data.source.path": str(file)})
    whole = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({"text": ["film"] * 100, "label": ["good"] * 100}), whole)
    content = bytearray(whole.getvalue())
    for _ in range(draw.rng.randint(20, 60)):
        content[draw.rng.randrange(len(content))] = draw.rng.randrange(256)
    content[-4:] = draw.rng.choice([b"PAR1", b"PARE", b"\0\0\0\0"])
    return _records(draw, ".parquet", bytes(content[: draw.rng.randint(1, len(content))]))


def _no_records(draw: Draw) -> Input:
    name, content = draw.rng.choice(
        [
            (".jsonl", b""),
            (".jsonl", b"\n" * 10**6),
            (".jsonl", b"\xef\xbb\xbf"),
            (".jsonl.gz", gzip.compress(b"{}")),
            (".jsonl", gzip.compress(b"{}" * 1000)),
            (".json", b"[]"),
            (".pkl", b"\x80\x04."),
            ("", b"{}"),
            (".csv", b"text\n"),
        ]
    )
    return _records(draw, name, content)


def _special_file(draw: Draw) -> Input:
    file = draw.target.root / f"special-{draw.number}.jsonl"
    match draw.rng.randrange(3):
        case 0:
            os.mkfifo(file)
        case 1:
            file.mkdir()
        case _:
            file.symlink_to(draw.rng.choice(draw.target.private_files()))
    return draw.job({"task.data.source.path": str(file)})


RECORDS: tuple[Make, ...] = (_lines, _tables, _sparse, _parquet, _no_records, _special_file)
