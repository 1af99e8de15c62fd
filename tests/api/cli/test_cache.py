"""`ranksieve cache`."""

import re

from ranksieve.workers.cache.folders import FolderCache


def test_list_and_clear(ranksieve, tmp_path):
    cache = FolderCache(tmp_path / "data" / "cache")
    for key in ("model-1", "factors-1"):
        with cache.lock(key), cache.writing(key) as scratch:
            (scratch / "data.bin").write_bytes(bytes(1000))

    listed = ranksieve("cache", "list", "--data-dir", "data")
    with cache.lease(), cache.lock("model-1"):
        cache.find("model-1")
        while_used = ranksieve("cache", "clear", "--data-dir", "data")
    cleared = ranksieve("cache", "clear", "--data-dir", "data")

    assert re.findall(r"[a-z]+-1", listed.stdout) == ["model-1", "factors-1"]
    assert "limit 100 GiB" in listed.stdout
    assert while_used.stdout == "removed 1 entries, 0.00 GiB; 1 are in use\n"
    assert cleared.stdout == "removed 1 entries, 0.00 GiB; 0 are in use\n"
    assert cache.entries() == []


def test_directory_without_a_cache(ranksieve, tmp_path):
    done = ranksieve("cache", "list", "--data-dir", "mistyped")

    assert done.exit_code == 2
    assert done.stderr.startswith(f"data_dir: {tmp_path}/mistyped holds no cache; name a directory")
    assert not (tmp_path / "mistyped").exists()
