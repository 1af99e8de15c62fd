import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import httpx2
import pyarrow as arrow
import pytest
from pyarrow import parquet

from ranksieve.search.errors import InputError
from ranksieve.workers.data import records
from ranksieve.workers.types.plan import RecordSource

ROWS = [
    {"text": "a fine, long film", "label": "positive"},
    {"text": 'it says "no"\nand ends', "label": "negative"},
    {"text": "über 映画", "label": "positive"},
]


def source(path: Path) -> RecordSource:
    return RecordSource(field="task.data.source", path=path)


def hub(hub_id: str, **options: Any) -> RecordSource:
    return RecordSource(field="task.data.files.test", hub_id=hub_id, **options)


def write(path: Path, content: str | bytes) -> RecordSource:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return source(path)


def test_formats_give_equal_records(tmp_path: Path) -> None:
    jsonl = write(tmp_path / "a.jsonl", "\n".join(json.dumps(row) for row in ROWS))
    quoted = ['"' + row["text"].replace('"', '""') + '",' + row["label"] for row in ROWS]
    csv = write(tmp_path / "a.CSV", "\r\n".join(["text,label", *quoted]) + "\r\n")
    parquet.write_table(arrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")

    assert records.read(jsonl) == records.read(csv) == records.read(source(tmp_path / "a.parquet")) == ROWS


@pytest.mark.parametrize(
    ("arrays", "names", "message"),
    [
        ([arrow.array(["x"]), arrow.array(["y"])], ["a", "a"], "must name every column once, got"),
        (
            [arrow.array([b"\xff"]).cast(arrow.string(), safe=False)],
            ["a"],
            "is not a parquet file that can be read",
        ),
        ([arrow.array([2**62], arrow.timestamp("us"))], ["a"], "is not a parquet file that can be read"),
    ],
)
def test_what_a_parquet_file_holds_and_python_cannot(
    tmp_path: Path, arrays: list[Any], names: list[str], message: str
) -> None:
    parquet.write_table(arrow.Table.from_arrays(arrays, names), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=message):
        records.read(source(tmp_path / "a.parquet"))


def test_blank_lines_and_byte_order_mark_are_skipped(tmp_path: Path) -> None:
    assert records.read(write(tmp_path / "a.jsonl", b'\xef\xbb\xbf{"a": 1}\n\n  \n{"a": 2}\n')) == [
        {"a": 1},
        {"a": 2},
    ]
    assert records.read(write(tmp_path / "a.csv", b"\xef\xbb\xbfa\n1\n\n2\n")) == [{"a": "1"}, {"a": "2"}]


def test_only_a_newline_ends_a_jsonl_record(tmp_path: Path) -> None:
    assert records.read(write(tmp_path / "a.jsonl", '{"a": "x\u2028y\x85z"}\n')) == [{"a": "x\u2028y\x85z"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "x", "ends in .jsonl, .csv, .parquet, got a.txt"),
        ("a.jsonl", "", "a.jsonl holds no records"),
        ("a.jsonl", '{"a": 1}\n{"a": \n', "a.jsonl line 2 is not JSON: EOF while parsing a value at column"),
        ("a.jsonl", "\n[1]\n", "a.jsonl line 2 is a JSON array; expected an object"),
        ("a.jsonl", "7", "line 1 is a JSON number"),
        (
            "a.jsonl",
            '{"a": 1}\n{"a": NaN}',
            "line 2 is not JSON: expected value at column 7; .* null for NaN",
        ),
        ("a.jsonl", '{"a": [-Infinity]}', "line 1 is not JSON: invalid number at column 9"),
        ("a.jsonl", "null", "line 1 is a JSON null"),
        ("a.jsonl", "[" * 100_000, "line 1 is not JSON: recursion limit exceeded"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "a.jsonl line 2 is not JSON: invalid unicode .*, in UTF-8"),
        ("a.jsonl", '{"a": "\\ud83d"}', "line 1 is not JSON: .* no half of a surrogate pair"),
        ("a.csv", "", "a.csv holds no records"),
        ("a.csv", "a,b\n", "a.csv holds no records"),
        ("a.csv", "a,b\n1,2\n3\n", "a.csv line 3 has 1 fields, expected the header's 2"),
        ("a.csv", "a,b\n1,2,3\n", "a.csv line 2 has 3 fields"),
        ("a.csv", "a,a\n1,2\n", "must name every column once, got \\['a', 'a'\\]"),
        ("a.csv", 'a\n"x', "a.csv line 2 is not csv: unexpected end of data"),
        ("a.csv", b"a\n\xff\n", "a.csv line 2 is not UTF-8"),
        ("a.parquet", "not parquet", "a.parquet is not a parquet file"),
    ],
)
def test_bad_file_is_named(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        records.read(write(tmp_path / name, content))
    assert caught.value.field == "task.data.source.path"


def test_whole_surrogate_pairs_are_text(tmp_path: Path) -> None:
    assert records.read(write(tmp_path / "a.jsonl", '{"a": "\\ud83d\\ude00"}')) == [{"a": "😀"}]


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file at"):
        records.read(source(tmp_path / "gone.jsonl"))
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match="is not a file"):
        records.read(source(tmp_path / "folder.csv"))


def test_file_that_the_system_cannot_open(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*: File name too long"):
        records.read(source(tmp_path / ("x" * 300 + ".jsonl")))


def test_too_many_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_RECORDS", 2)
    assert len(records.read(write(tmp_path / "a.csv", "a\n1\n2\n"))) == 2
    with pytest.raises(InputError, match="more than 2 records"):
        records.read(write(tmp_path / "a.csv", "a\n1\n2\n3\n"))


class FakeHub:
    """Stands for `datasets.load_dataset`: keeps what it was asked, gives `rows` or raises."""

    def __init__(
        self,
        rows: list[dict[str, Any]],
        error: Exception | None = None,
        features: datasets.Features | None = None,
    ) -> None:
        table = arrow.Table.from_pylist(rows, schema=None if features is None else features.arrow_schema)
        self.rows = datasets.Dataset(table, info=datasets.DatasetInfo(features=features))
        self.error = error
        self.asked: tuple[Any, ...] = ()

    def __call__(self, path: str, name: str | None, *, split: str, revision: str | None) -> datasets.Dataset:
        self.asked = (path, name, split, revision)
        if self.error is not None:
            raise self.error
        return self.rows


@pytest.fixture
def use_hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeHub], FakeHub]:
    def use(fake: FakeHub) -> FakeHub:
        monkeypatch.setattr(datasets, "load_dataset", fake)
        monkeypatch.setattr("ranksieve.workers.model.hub.files_elsewhere", lambda *_: [])
        return fake

    return use


def test_hub_passes_config_split_and_revision(use_hub: Any) -> None:
    fake = use_hub(FakeHub(ROWS))
    wanted = hub("owner/some-set", config="plain", split="validation", revision="abc")
    assert records.read(wanted) == ROWS
    assert fake.asked == ("owner/some-set", "plain", "validation", "abc")
    assert records.describe(wanted) == "owner/some-set"


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("couldn't reach the hub"),
        ValueError('Unknown split "train"'),
        RuntimeError("Dataset scripts are no longer supported"),
        datasets.exceptions.DatasetNotFoundError("doesn't exist"),
        datasets.exceptions.DatasetGenerationError("bad file"),
        ModuleNotFoundError("No module named 'h5py'"),
        TypeError("argument of type 'int' is not iterable"),
        tarfile.ReadError("invalid header"),
    ],
)
def test_hub_failure_says_what_to_do(use_hub: Any, error: Exception) -> None:
    use_hub(FakeHub([], error))
    with pytest.raises(
        InputError, match=r"cannot load split 'train' of config 'x' of a/b: .*give a file as path"
    ) as e:
        records.read(hub("a/b", config="x"))
    assert e.value.field == "task.data.files.test.hub"
    assert str(error) in e.value.message


@pytest.mark.parametrize(
    "error", [ConnectionError("couldn't reach the hub"), httpx2.ReadError("reset by peer")]
)
def test_hub_that_does_not_answer_may_do_so_later(use_hub: Any, error: Exception) -> None:
    use_hub(FakeHub([], error))
    with pytest.raises(InputError) as caught:
        records.read(hub("a/b"))
    assert isinstance(caught.value.__cause__, ConnectionError)


def test_a_data_set_that_names_files_of_others_is_not_asked_for(
    use_hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = use_hub(FakeHub(ROWS))
    monkeypatch.setattr("ranksieve.workers.model.hub.files_elsewhere", lambda *_: ["http://localhost/a.csv"])
    with pytest.raises(
        InputError, match=r"a/b names 'http://localhost/a\.csv' as its data; expected files"
    ) as caught:
        records.read(hub("a/b"))
    assert caught.value.field == "task.data.files.test.hub.id"
    assert fake.asked == ()


def test_images_of_the_hub_are_read_as_they_are_stored(use_hub: Any) -> None:
    """Decoded, an image has no content that splits could be shuffled by, and each needs a library."""
    features = datasets.Features(text=datasets.Value("string"), image=datasets.Image())
    rows = [{"text": str(i), "image": {"bytes": bytes([i]), "path": None}} for i in range(3)]
    use_hub(FakeHub(rows, features=features))
    assert records.read(hub("a/b")) == rows


def test_hub_split_without_records(use_hub: Any) -> None:
    use_hub(FakeHub([]))
    with pytest.raises(InputError, match="a/b holds no records"):
        records.read(hub("a/b"))


@pytest.mark.parametrize("hub_id", ["json", "text", "/etc", "../a", "a/b/c", "hf://datasets/a/b", ""])
def test_hub_id_never_reads_files_of_the_server(use_hub: Any, hub_id: str) -> None:
    fake = use_hub(FakeHub(ROWS))
    with pytest.raises(InputError, match="expected owner/name") as caught:
        records.read(hub(hub_id))
    assert caught.value.field == "task.data.files.test.hub.id"
    assert fake.asked == ()


def test_hub_id_that_is_a_folder_here_is_refused(
    use_hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_hub(FakeHub(ROWS))
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="expected owner/name"):
        records.read(hub("owner/name"))


def test_no_link_in_an_archive_of_the_hub_leads_to_a_file_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is unpacked it leads into the archive; the links behind it are what makes it lead out."""
    (tmp_path / "outside.txt").write_text("secret\n")
    ups = [str(number) for number in range(30)]
    link = "/".join([*ups, *[".."] * len(ups), *(tmp_path / "outside.txt").parts[1:]])
    (tmp_path / "set").mkdir()
    with tarfile.open(tmp_path / "set" / "a.txt", "w") as archive:
        plain = tarfile.TarInfo("b.txt")
        plain.size = 5
        archive.addfile(plain, io.BytesIO(b"sound"))
        for name, target in {"c.txt": link, **dict.fromkeys(ups, ".")}.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    load = datasets.load_dataset
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda *_, split, **__: load(str(tmp_path / "set"), split=split, cache_dir=str(tmp_path / "cache")),
    )
    monkeypatch.setattr("ranksieve.workers.model.hub.files_elsewhere", lambda *_: [])
    monkeypatch.setattr(datasets.config, "EXTRACTED_DATASETS_PATH", tmp_path / "cache")
    assert records.read(hub("a/b")) == [{"text": "sound"}]


def test_a_small_parquet_file_of_much_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_BYTES", 10_000)
    text = arrow.array(["x" * 100])
    for rows, column in ((101, text.take([0] * 101)), (101, text.dictionary_encode().take([0] * 101))):
        parquet.write_table(arrow.table({"a": column}), tmp_path / "a.parquet")
        with pytest.raises(InputError, match=r"a\.parquet holds more than 10,000 bytes"):
            records.read(source(tmp_path / "a.parquet"))
        parquet.write_table(arrow.table({"a": column[: rows // 2]}), tmp_path / "a.parquet")
        assert len(records.read(source(tmp_path / "a.parquet"))) == rows // 2
