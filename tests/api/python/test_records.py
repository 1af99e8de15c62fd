"""Records in memory become files that a job reads back as they were; names stay names."""

import datetime

import datasets
import pandas
import pytest

from ranksieve.api.python.records import named_source, write_records
from ranksieve.search.errors import InputError
from ranksieve.workers.data.records import first

ROWS = [{"text": "a joy", "label": "good", "stars": 4}, {"text": "a bore", "label": "bad", "stars": None}]


def test_a_file_is_named_by_its_ending_or_by_being_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reviews.txt").touch()

    assert named_source("there/on/a/server.JSONL") == {"path": "there/on/a/server.JSONL"}
    assert named_source("reviews.txt") == {"path": "reviews.txt"}
    assert named_source(tmp_path / "reviews") == {"path": str(tmp_path / "reviews")}
    assert named_source("fancyzhx/ag_news") == {"hub": {"id": "fancyzhx/ag_news"}}
    assert named_source(ROWS) is None


@pytest.mark.parametrize(
    "data",
    [
        ROWS,
        pandas.DataFrame(ROWS, index=[7, 3]),
        datasets.Dataset.from_list(ROWS),
        datasets.Dataset.from_list([*ROWS, ROWS[0]]).with_format("numpy").select([0, 1]),
    ],
    ids=["list", "frame", "dataset", "selection"],
)
def test_records_are_read_back_as_they_were(data, tmp_path):
    file = write_records(data, tmp_path / "records")

    assert first(file, "data", 10) == ROWS
    assert write_records(data, tmp_path / "records") == file
    assert list((tmp_path / "records").iterdir()) == [file]


def test_other_records_are_another_file(tmp_path):
    assert write_records(ROWS, tmp_path) != write_records(ROWS[:1], tmp_path)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (5, "expected a file, .* got int"),
        (["a joy"], "expected a file, .* got list"),
        (datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)), "expected a file, .* got DatasetDict"),
        ([{"at": datetime.date(2020, 1, 1)}], "cannot be written to a file: .*date is not JSON"),
        ([{"stars": float("nan")}], "cannot be written to a file: .*not JSON compliant"),
        (pandas.DataFrame({"text": ["a", 5]}), "cannot be written to a file"),
    ],
    ids=["number", "texts", "splits", "date", "nan", "mixed"],
)
def test_what_is_no_records_is_refused(data, words, tmp_path):
    with pytest.raises(InputError, match=f"^data: {words}"):
        write_records(data, tmp_path)
    assert list(tmp_path.iterdir()) == []
