import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ranksieve.workers.machine import limits
from ranksieve.workers.machine.limits import memory_bytes, processors

Groups = Callable[[str, dict[str, str]], None]


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Groups:
    """Puts this process into control groups; it may run on eight processors of its own accord."""

    def put(own: str, files: dict[str, str]) -> None:
        for name, text in files.items():
            file = tmp_path / "groups" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text + "\n")
        (tmp_path / "own").write_text(own)

    monkeypatch.setattr(limits, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(limits, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    return put


def installed() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_without_groups_it_has_the_machine(groups: Groups) -> None:
    assert processors() == 8
    assert memory_bytes() == installed()


@pytest.mark.parametrize(
    ("own", "files"),
    [
        ("0::/", {"cpu.max": "250000 100000", "memory.max": "1048576"}),
        ("0::/unit", {"unit/cpu.max": "250000 100000", "unit/memory.max": "1048576"}),
        ("0::/slice/unit", {"slice/unit/cpu.max": "max 100000", "slice/cpu.max": "250000 100000",
                            "slice/unit/memory.max": "1048576", "slice/memory.max": "2097152"}),
        ("4:memory:/pod\n2:cpu,cpuacct:/pod\n0::/pod",  # version 1
         {"memory/pod/memory.limit_in_bytes": "1048576", "cpu,cpuacct/pod/cpu.cfs_quota_us": "250000",
          "cpu,cpuacct/pod/cpu.cfs_period_us": "100000"}),
        ("4:memory:/docker/id\n2:cpu:/docker/id",  # the host's path, in a container
         {"memory/memory.limit_in_bytes": "1048576", "cpu/cpu.cfs_quota_us": "250000",
          "cpu/cpu.cfs_period_us": "100000"}),
    ],
    ids=["container", "service", "the tightest of nested ones", "version 1", "version 1 in a container"],
)  # fmt: skip
def test_the_tightest_limit_counts(groups: Groups, own: str, files: dict[str, str]) -> None:
    groups(own, files)
    assert processors() == 2
    assert memory_bytes() == 2**20


@pytest.mark.parametrize(
    ("own", "files"),
    [
        ("0::/", {"cpu.max": "max 100000", "memory.max": "max"}),
        ("4:memory:/\n2:cpu:/", {"memory/memory.limit_in_bytes": "9223372036854771712",
                                 "cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}),
        ("0::/", {"cpu.max": "9900000 100000", "memory.max": str(2**62)}),
    ],
    ids=["none", "none in version 1", "more than there is"],
)  # fmt: skip
def test_what_limits_nothing_is_none(groups: Groups, own: str, files: dict[str, str]) -> None:
    groups(own, files)
    assert processors() == 8
    assert memory_bytes() == installed()


def test_less_than_a_processor_is_one(groups: Groups) -> None:
    groups("0::/", {"cpu.max": "10000 100000"})
    assert processors() == 1
