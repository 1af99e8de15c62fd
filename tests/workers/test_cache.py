import json
import threading
from pathlib import Path

import pytest

from workers.cache import MANIFEST, FolderCache, content_key, file_sha256


@pytest.fixture
def cache(tmp_path: Path) -> FolderCache:
    return FolderCache(tmp_path / "cache")


def store(cache: FolderCache, key: str, text: str = "whole") -> Path:
    with cache.writing(key) as scratch:
        (scratch / "inner").mkdir()
        (scratch / "inner" / "data.txt").write_text(text)
    return cache.path(key)


def test_key_depends_on_content_alone() -> None:
    assert content_key("a", {"x": 1, "y": 2}) == content_key("a", {"y": 2, "x": 1})
    assert len({content_key("a", "b"), content_key("ab"), content_key(["a", "b"]), content_key("a")}) == 4


def test_entry_appears_whole(cache: FolderCache) -> None:
    with cache.writing("key") as scratch:
        (scratch / "data.txt").write_text("whole")
        assert cache.find("key") is None
    assert cache.find("key") == cache.path("key")
    assert (cache.path("key") / "data.txt").read_text() == "whole"
    assert cache.find("other") is None


def test_manifest_names_every_file(cache: FolderCache) -> None:
    folder = store(cache, "key")
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest == {"inner/data.txt": file_sha256(folder / "inner/data.txt")}


def test_failed_build_leaves_nothing(cache: FolderCache) -> None:
    root = cache.path("key").parent

    def fail() -> None:
        with cache.writing("key") as scratch:
            (scratch / "data.txt").write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("damage", ["changed", "missing", "no manifest", "broken manifest"])
def test_damaged_entry_is_dropped_and_built_again(cache: FolderCache, damage: str) -> None:
    folder = store(cache, "key")
    data, manifest = folder / "inner" / "data.txt", folder / MANIFEST
    {
        "changed": lambda: data.write_text("w\0ole"),
        "missing": data.unlink,
        "no manifest": manifest.unlink,
        "broken manifest": lambda: manifest.write_text("{"),
    }[damage]()
    assert cache.find("key") is None
    assert not folder.exists()
    store(cache, "key", "again")
    assert cache.find("key") == folder


def test_second_holder_of_a_key_waits_for_the_first(cache: FolderCache) -> None:
    built: list[str] = []
    entered = threading.Event()

    def build(name: str) -> None:
        entered.set()
        with cache.lock("key"):
            if cache.find("key") is None:
                store(cache, "key")
                built.append(name)

    second = threading.Thread(target=build, args=("second",))
    with cache.lock("key"):
        second.start()
        entered.wait()
        second.join(timeout=0.2)
        assert second.is_alive()
        store(cache, "key")
        with cache.lock("another key"):
            built.append("first")
    second.join(timeout=10)
    assert built == ["first"]
