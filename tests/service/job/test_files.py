"""Files of a job's folder, where two processes write the same one or the disk is full."""

import os
from pathlib import Path

import pytest

from ranksieve.service.job.files import read_json, write_json


def test_two_writers_do_not_write_into_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, fsync = tmp_path / "job" / "clock.json", os.fsync

    def meanwhile(descriptor: int) -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        write_json(file, ["the other"])
        assert read_json(file) == ["the other"]
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", meanwhile)
    write_json(file, ["this one"] * 3)

    assert read_json(file) == ["this one"] * 3
    assert [entry.name for entry in file.parent.iterdir()] == ["clock.json"]


def test_what_cannot_be_written_leaves_the_former_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "clock.json"
    write_json(file, {"search": 1.0})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(file, {"search": 2.0})

    assert read_json(file) == {"search": 1.0}
    assert list(tmp_path.iterdir()) == [file]
