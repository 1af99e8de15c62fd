"""Files are read for their checksums once per node."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ranksieve.workers.cache.checksums import Checksums


class Reader:
    """Computes checksums, and keeps what it read."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, file: Path) -> str:
        self.read.append(file.name)
        return file.read_text()


@pytest.fixture
def known(tmp_path: Path) -> Checksums:
    return Checksums(tmp_path / "known")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    files = [tmp_path / name for name in ("a", "b")]
    for file in files:
        file.write_text(file.name)
    return files


def test_files_are_read_once_until_one_changes(known: Checksums, files: list[Path], tmp_path: Path) -> None:
    reader = Reader()
    for checksums in (known, known, Checksums(tmp_path / "known")):  # as another process of the node
        assert checksums.of("set", files, reader) == ["a", "b"]
    assert reader.read == ["a", "b"]
    files[0].write_text("longer")
    assert known.of("set", files, reader) == ["longer", "b"]
    known.forget("set")
    assert known.of("set", files, reader) == ["longer", "b"]
    assert len(reader.read) == 6


def test_another_node_reads_for_itself(
    known: Checksums, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader()
    known.record("set", {files[0]: "recorded"})
    assert known.of("set", files[:1], reader) == ["recorded"]
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    assert known.of("set", files[:1], reader) == ["a"]


def test_who_wants_what_another_one_computes_waits_for_it(known: Checksums, files: list[Path]) -> None:
    reader, begun = Reader(), threading.Barrier(4)

    def ask(_: int) -> list[str]:
        begun.wait(30)
        return known.of("set", files, reader)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == [["a", "b"]] * 4
    assert reader.read == ["a", "b"]
