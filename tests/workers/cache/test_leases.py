import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ranksieve.workers.cache.leases import Leases


@pytest.fixture
def leases(tmp_path: Path) -> Leases:
    return Leases(tmp_path)


def lease_files(root: Path) -> list[Path]:
    return list(root.glob("*.lease"))


def test_the_oldest_counts_while_it_is_held(leases: Leases, tmp_path: Path) -> None:
    with leases.frozen() as oldest_ns:
        assert oldest_ns == math.inf
    with leases.hold():
        (first,) = lease_files(tmp_path)
        os.utime(first, ns=(100, 100))
        with leases.hold():
            assert leases.newest_ns() > 100
            with leases.frozen() as oldest_ns:
                assert oldest_ns == 100
        with leases.frozen() as oldest_ns:
            assert (oldest_ns, leases.newest_ns()) == (100, 100)
    assert lease_files(tmp_path) == []
    with leases.frozen() as oldest_ns:
        assert (oldest_ns, leases.newest_ns()) == (math.inf, 0)


def test_an_error_inside_ends_it(leases: Leases, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mine"), leases.hold():
        raise ValueError("mine")
    assert lease_files(tmp_path) == []


def test_of_a_killed_process_is_over(leases: Leases, tmp_path: Path) -> None:
    holder = "import pathlib, sys; from ranksieve.workers.cache.leases import Leases\n"
    holder += "with Leases(pathlib.Path(sys.argv[1])).hold(): print('held', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", holder, str(tmp_path)], text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with leases.frozen() as oldest_ns:
            assert oldest_ns < math.inf
        process.kill()
    assert len(lease_files(tmp_path)) == 1
    with leases.frozen() as oldest_ns:
        assert oldest_ns == math.inf
    assert lease_files(tmp_path) == []


def test_none_begins_while_they_are_frozen(leases: Leases) -> None:
    """Whoever evicts has looked at the leases there are: another one would hold what goes just now."""
    begun = threading.Event()

    def hold() -> None:
        with leases.hold():
            begun.set()

    holder = threading.Thread(target=hold)
    with leases.frozen():
        holder.start()
        assert not begun.wait(0.3)
    assert begun.wait(30)
    holder.join()
