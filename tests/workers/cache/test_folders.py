import errno
import json
import os
import select
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from safetensors import SafetensorError

from ranksieve.search.errors import InfrastructureError
from ranksieve.workers.cache.folders import CHECKSUMS, GIB, LOCKS, FolderCache, content_key
from ranksieve.workers.cache.manifest import MANIFEST, checksum


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
    keys = [content_key("a", "b"), content_key("ab"), content_key("a", ["b"]), content_key("a")]
    assert len({key.rpartition("-")[2] for key in keys}) == 4
    assert [key.rpartition("-")[0] for key in keys] == ["a", "ab", "a", "a"]


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
    assert manifest == {"inner/data.txt": checksum(folder / "inner/data.txt")}


@pytest.mark.parametrize(
    "damage", ["changed", "missing", "no manifest", "broken manifest", "no list", "no files"]
)
def test_damaged_entry_is_dropped_and_built_again(cache: FolderCache, damage: str) -> None:
    folder = store(cache, "key")
    data, manifest = folder / "inner" / "data.txt", folder / MANIFEST
    {
        "changed": lambda: (data.write_text("w\0ole"), os.utime(data, ns=(0, 0))),
        "missing": data.unlink,
        "no manifest": manifest.unlink,
        "broken manifest": lambda: manifest.write_text("{"),
        "no list": lambda: manifest.write_text("null"),
        "no files": lambda: manifest.write_text("{}"),
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
    second.join(timeout=60)
    assert built == ["first"]


class Process:
    """Another process that works with the same cache; it says what it does, and goes on when told."""

    def __init__(self, code: str, root: Path) -> None:
        command = [sys.executable, "-c", PREAMBLE + code, str(root)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, bufsize=0
        )  # what is said is seen by select
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def fileno(self) -> int:
        return self._out.fileno()

    def heard(self) -> str:
        return self._out.readline().decode().strip()

    def tell(self) -> None:
        self._in.write(b"go on\n")

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


PREAMBLE = """
import pathlib, sys
from ranksieve.workers.cache.folders import FolderCache
cache = FolderCache(pathlib.Path(sys.argv[1]))
def say(word):
    print(word, flush=True)
def wait():
    sys.stdin.readline()
"""
USE = """
with cache.lease():
    with cache.lock("used"):
        say(cache.find("used") is not None)
    wait()
"""
WRITE = """
with cache.lock("key"), cache.writing("key") as scratch:
    (scratch / "data.bin").write_bytes(bytes(100))
    say(scratch.name)
    wait()
"""
BUILD = """
say("asks")
with cache.lock("key"):
    if cache.find("key") is None:
        with cache.writing("key") as scratch:
            say("builds")
            wait()
            (scratch / "data.bin").write_bytes(bytes(100))
say("has it" if cache.path("key").is_dir() else "has nothing")
"""


@pytest.fixture
def small(tmp_path: Path) -> FolderCache:
    """Room for two entries of 100 bytes and their manifests, not for three."""
    return FolderCache(tmp_path / "cache", limit_bytes=400)


def put(cache: FolderCache, key: str, size_bytes: int = 100) -> None:
    with cache.lock(key), cache.writing(key) as scratch:
        (scratch / "data.bin").write_bytes(bytes(size_bytes))


def use(cache: FolderCache, key: str) -> bool:
    with cache.lock(key):
        return cache.find(key) is not None


def held(cache: FolderCache) -> list[str]:
    return [entry.key for entry in cache.entries()]


def age(cache: FolderCache, key: str) -> None:
    """Makes an entry look unused since 1970."""
    os.utime(cache.path(key), ns=(1, 1))


def test_entries_have_sizes_and_their_last_use(cache: FolderCache) -> None:
    before_ns = time.time_ns()
    put(cache, "first", 1000)
    put(cache, "second", 10)
    assert use(cache, "first")
    second, first = cache.entries()
    assert (second.key, first.key) == ("second", "first")
    assert before_ns <= second.last_use_ns < first.last_use_ns <= time.time_ns()
    manifest_bytes = (cache.path("first") / MANIFEST).stat().st_size
    assert first.size_bytes == 1000 + manifest_bytes


def test_a_file_in_two_entries_counts_once(cache: FolderCache) -> None:
    put(cache, "part", 1000)
    with cache.lock("whole"), cache.writing("whole") as scratch:
        os.link(cache.path("part") / "data.bin", scratch / "data.bin")
    manifests_bytes = sum(file.stat().st_size for file in cache.path("part").parent.glob(f"*/{MANIFEST}"))
    assert sum(entry.size_bytes for entry in cache.entries()) == 1000 + manifests_bytes


def test_what_was_used_longest_ago_goes(small: FolderCache) -> None:
    for key in ("a", "b"):
        put(small, key)
    assert use(small, "a")
    put(small, "c")
    assert held(small) == ["a", "c"]
    assert not use(small, "b")
    put(small, "d")
    assert held(small) == ["c", "d"]


def test_without_a_limit_nothing_goes(cache: FolderCache) -> None:
    for key in "abcdefgh":
        put(cache, key, 10_000)
    assert held(cache) == list("abcdefgh")


def test_an_entry_beyond_the_limit_stays_alone(small: FolderCache, caplog: pytest.LogCaptureFixture) -> None:
    put(small, "a")
    put(small, "large", 10_000)
    assert held(small) == ["large"]
    assert "more than its limit" in caplog.text


def test_a_lease_keeps_what_is_found_and_published_after_it(small: FolderCache) -> None:
    for key in ("before", "found"):
        put(small, key)
        age(small, key)
    with small.lease():
        assert use(small, "found")
        put(small, "published")
        put(small, "more")
        assert held(small) == ["found", "published", "more"]
    put(small, "last")
    assert held(small) == ["more", "last"]


def test_a_key_is_claimed_by_one_and_free_again_afterwards(tmp_path: Path) -> None:
    cache = FolderCache(tmp_path)
    with cache.claim("key") as first:
        with cache.claim("key") as second, FolderCache(tmp_path).claim("another") as other:
            assert (first, second, other) == (True, False, True)
        with cache.claim("key") as third:
            assert not third  # a refused claim gives nothing back
    with cache.lock("key"), cache.claim("key") as while_locked:
        assert not while_locked
    with cache.claim("key") as again, cache.writing("key"):
        assert again
        assert not cache.has("key")
    assert cache.has("key")


def test_a_lease_while_the_clock_is_set_back(small: FolderCache, monkeypatch: pytest.MonkeyPatch) -> None:
    put(small, "found")
    with small.lease():
        monkeypatch.setattr(time, "time_ns", lambda: 1)
        assert use(small, "found")
        put(small, "published")
        put(small, "more")
        assert sorted(held(small)) == ["found", "more", "published"]


def test_locks_lie_apart_from_entries_and_outlive_them(cache: FolderCache) -> None:
    root = cache.path("key").parent
    for key in ("a", "b"):
        put(cache, key)
    assert {path.name for path in root.iterdir()} == {"a", "b", LOCKS, CHECKSUMS, "leases.lock"}
    with cache.lock("a"):
        assert held(cache) == ["a", "b"]
        assert [entry.key for entry in cache.shrink(0)] == ["b"]
    assert [entry.key for entry in cache.shrink(0)] == ["a"]
    assert {path.name for path in root.iterdir()} == {LOCKS, CHECKSUMS, "leases.lock"}
    assert {path.stem for path in (root / LOCKS).iterdir()} == {"a", "b"}


def test_an_entry_whose_key_is_held_stays(small: FolderCache) -> None:
    put(small, "a")
    put(small, "b")
    with small.lock("a"):
        put(small, "c")
    assert held(small) == ["a", "c"]


def test_an_entry_used_since_it_was_listed_stays(small: FolderCache) -> None:
    put(small, "a")
    (listed,) = small.entries()
    assert use(small, "a")
    assert not small._evict(listed)
    assert held(small) == ["a"]


def test_clearing_spares_what_is_in_use(cache: FolderCache) -> None:
    for key in ("a", "b"):
        put(cache, key)
        age(cache, key)
    with cache.lease():
        assert use(cache, "b")
        assert [entry.key for entry in cache.shrink(0)] == ["a"]
    assert [entry.key for entry in cache.shrink(0)] == ["b"]
    assert held(cache) == []


def test_an_entry_in_use_by_a_process_stays(small: FolderCache) -> None:
    put(small, "used")
    age(small, "used")
    with Process(USE, small.path("used").parent) as user:
        assert user.heard() == "True"
        put(small, "b")
        put(small, "c")
        assert held(small) == ["used", "b", "c"]
        user.kill()
        put(small, "d")
    assert held(small) == ["c", "d"]


def test_a_killed_writer_leaves_nothing_for_long(cache: FolderCache) -> None:
    root = cache.path("key").parent
    with Process(WRITE, root) as writer:
        scratch = root / writer.heard()
        put(cache, "other")
        assert scratch.is_dir()  # its writer lives
        writer.kill()
        assert scratch.is_dir()
        put(cache, "another")
        assert not scratch.exists()
    assert held(cache) == ["other", "another"]


def test_the_next_writer_of_its_key_removes_it_too(cache: FolderCache) -> None:
    root = cache.path("key").parent
    with Process(WRITE, root) as writer:
        scratch = root / writer.heard()
        writer.kill()
    with cache.lock("key"), cache.writing("key"):
        assert not scratch.exists()
    assert list(root.glob(".*-*")) == []


def test_a_killed_builder_is_replaced(cache: FolderCache) -> None:
    root = cache.path("key").parent
    with Process(BUILD, root) as first:
        assert [first.heard(), first.heard()] == ["asks", "builds"]
        with Process(BUILD, root) as second:
            assert second.heard() == "asks"
            assert not select.select([second], [], [], 0.3)[0]
            first.kill()
            assert second.heard() == "builds"
            second.tell()
            assert second.heard() == "has it"


def full_disk(scratch: Path) -> None:
    with Path("/dev/full").open("w") as stream:
        stream.write("x" * 100_000)


def full_disk_in_rust(scratch: Path) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def full_quota(scratch: Path) -> None:
    raise OSError(errno.EDQUOT, "Disk quota exceeded")


@pytest.mark.parametrize("write", [full_disk, full_disk_in_rust, full_quota])
def test_a_full_disk_names_the_cache_and_the_limit(tmp_path: Path, write: Callable[[Path], None]) -> None:
    cache = FolderCache(tmp_path, limit_bytes=3 * GIB)
    put(cache, "a")
    message = "no space left on the disk to write b: the cache"
    expected = rf"{message} {tmp_path} holds 0\.00 GiB, its limit is 3 GiB; .*`ranksieve cache clear`"
    with pytest.raises(InfrastructureError, match=expected), cache.lock("b"), cache.writing("b") as scratch:
        write(scratch)
    assert held(cache) == ["a"]
    assert list(tmp_path.glob(".*-*")) == []


def test_deleting_holds_nobody_up(cache: FolderCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where storage is slow that takes long, and every dry run and every job begins with a lease."""
    folder, removed, rmtree = store(cache, "old"), [], shutil.rmtree

    def remove(path: Path) -> None:
        with FileLock(folder.parent / "leases.lock", timeout=0):
            removed.append(path.name.partition("-")[0])
        rmtree(path)

    monkeypatch.setattr(shutil, "rmtree", remove)
    assert [entry.key for entry in cache.shrink(0)] == ["old"]
    assert removed == [".old"]
    assert not [path for path in folder.parent.iterdir() if "old" in path.name]


def test_entries_may_be_read_by_all(cache: FolderCache) -> None:
    put(cache, "key")
    assert stat.S_IMODE(cache.path("key").stat().st_mode) == 0o755


def test_a_lease_from_a_clock_that_is_ahead(
    small: FolderCache,
) -> None:
    root = small.path("key").parent
    with small.lease():
        (lease,) = root.glob("*.lease")
        ahead_ns = time.time_ns() + 10**15
        os.utime(lease, ns=(ahead_ns, ahead_ns))
        for key in ("a", "b", "c"):
            put(small, key)
        assert sorted(held(small)) == ["a", "b", "c"]
