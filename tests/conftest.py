"""What is real in the tests and not Python's: a PostgreSQL server of the run's own, and a browser, both Debian's.

The server listens on a socket, in a folder that goes at the end.
"""

import itertools
import os
import pwd
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import psycopg
import pytest
from filelock import FileLock

from ranksieve.service import policy
from ranksieve.service.pipeline.checking import estimate_new
from ranksieve.workers.machine import limited

os.environ.setdefault(
    "RAY_worker_niceness", "0"
)  # by default 15: beside other tests, Ray's workers would starve

DOWNLOADED = Path(sys.prefix)
"""Where `make test` puts Debian's packages of what is not installed, in a folder for each program."""

# On a busy machine an example takes as long as it takes; and what is run is the same everywhere.
hypothesis.settings.register_profile(
    "ranksieve", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("campaign", hypothesis.settings.get_profile("ranksieve"))
hypothesis.settings.load_profile("ranksieve")

OncePerRun = Callable[[str, Callable[[Path], object]], Path]

FAST = ("fsync", "synchronous_commit", "full_page_writes")  # what only matters after a power cut
_NAME = "tests"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what is marked `as_user` where root runs the tests."""
    if item.get_closest_marker("as_user") is not None and os.geteuid() == 0:
        pytest.skip("root may read everything")


@pytest.fixture(scope="session")
def once_per_run(tmp_path_factory: pytest.TempPathFactory) -> OncePerRun:
    """Fills a folder of a name once for all of pytest's processes; returns the folder."""
    own = tmp_path_factory.getbasetemp()
    common = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def make(name: str, fill: Callable[[Path], object]) -> Path:
        folder = common / name
        filled = folder / "filled"
        with FileLock(common / f"{name}.lock"):
            if not filled.exists():
                shutil.rmtree(folder, ignore_errors=True)  # a process failed to fill it
                folder.mkdir()
                fill(folder)
                filled.touch()
        return folder

    return make


@pytest.fixture(scope="session", autouse=True)
def _checks_as_urgent_as_tests() -> Iterator[None]:
    """Beside other tests, checks of a lower priority would starve.

    The process that children are forked from is one for all tests: it has to hold what the service's checks import,
    whatever test comes first.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limited, "NICENESS", 0)
        patch.setattr(limited, "PRELOADED", (estimate_new.__module__, *limited.PRELOADED))
        yield


@pytest.fixture(autouse=True)
def _policy_of_every_test() -> Iterator[None]:
    """Takes back what a test has tuned."""
    efforts, front = dict(policy.EFFORTS), dict(policy.FRONT)
    yield
    policy.EFFORTS.update(efforts)
    policy.FRONT.update(front)


@dataclass(frozen=True, kw_only=True, slots=True)
class PostgresServer:
    """A running server, which makes databases: schemas, to be exact, for those are cheap."""

    folder: Path
    restart: Callable[[], None]
    """Ends every connection and starts again."""
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def create(self) -> str:
        """A new database without tables; returns its URL."""
        server = f"postgresql:///postgres?host={self.folder}&user={_NAME}"
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(server) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{server}&options=-csearch_path%3D{name}"


@pytest.fixture(scope="session")
def make_flop_timer() -> Callable[..., Any]:
    """Makes a timer of a device that needs a nanosecond for every FLOP, whatever else the machine does."""
    from torch.utils.flop_counter import FlopCounterMode

    class FlopTimer:
        def __init__(self, device: Any, threads: int) -> None:
            self.taken: list[int] = []

        def time(self, call: Callable[[], object]) -> None:
            with FlopCounterMode(display=False) as counter:
                call()
            self.taken.append(counter.get_total_flops())

        def collect(self) -> list[int]:
            taken, self.taken = self.taken, []
            return taken

    return FlopTimer


@pytest.fixture(scope="session")
def unsynced_sqlite() -> Iterator[Callable[..., None]]:
    """Let SQLite return from a commit before the disk has it; returns the configuration of production.

    The disk takes most of a commit's time and matters after a power cut alone. Servers in processes of their own,
    which tests kill, wait for it.
    """
    from ranksieve.service.store import engine

    configure = engine._configure_sqlite

    def configure_unsynced(connection: sqlite3.Connection, record: Any) -> None:
        configure(connection, record)
        connection.execute("PRAGMA synchronous = OFF")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_configure_sqlite", configure_unsynced)
        yield configure


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """The server; tests that ask for it are skipped where it cannot be had."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder = Path(name)
        server, environment = _program("postgres", "postgresql", partial(_unpack, "postgres", folder))
        programs = server.parent
        owner = _unprivileged(folder)

        def run(program: str, *arguments: str) -> None:
            command = [programs / program, "-D", folder / "data", *arguments]
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, check=False, **owner
            )
            assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

        run("initdb", "-U", _NAME, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        options = " ".join(f"-c {setting}=off" for setting in FAST)
        where = f"-c listen_addresses='' -c unix_socket_directories={folder}"
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", f"{options} {where}", "start")
        try:
            restart = partial(run, "pg_ctl", "-w", "-l", str(folder / "log"), "-m", "fast", "restart")
            yield PostgresServer(folder=folder, restart=restart)
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "stop")


@dataclass(frozen=True, kw_only=True, slots=True)
class Browser:
    """Debian's Chromium without a window: its program, and the environment that it runs in."""

    program: Path
    environment: dict[str, str]


@pytest.fixture(scope="session")
def chromium(once_per_run: OncePerRun) -> Browser:
    """The browser; tests that ask for it are skipped where it cannot be had."""
    name = "chromium-headless-shell"
    program, environment = _program(name, "chromium", partial(once_per_run, name, partial(_unpack, name)))
    tried = subprocess.run(
        [program, "--version"], env=environment, capture_output=True, text=True, check=False
    )
    if tried.returncode != 0:
        pytest.skip(f"{name} is NOT tested: it does not start on this machine: {tried.stderr.strip()}")
    return Browser(program=program, environment=environment)


def _program(name: str, package: str, unpack: Callable[[], Path]) -> tuple[Path, dict[str, str]]:
    """A program, unpacked unless it is installed, and the environment it runs in."""
    installed = [Path(found) for found in [shutil.which(name)] if found]
    installed += Path("/usr/lib", package).glob(f"*/bin/{name}")
    if installed:
        return installed[0].resolve(), dict(os.environ)
    folder = unpack()
    [program] = [found for found in folder.glob(f"usr/lib/**/{name}") if found.is_file()]
    libraries = {str(library.parent) for library in folder.rglob("*.so*")}
    return program, {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(sorted(libraries))}


def _unpack(name: str, folder: Path) -> Path:
    """Unpacks a program into a folder; returns the folder."""
    packages = sorted((DOWNLOADED / name.partition("-")[0]).glob("*.deb"))
    if not packages:
        pytest.skip(
            f"{name} is NOT tested: it is neither installed nor could `make test` download it; "
            "see what tests/download_debian.sh says"
        )
    for file in packages:
        subprocess.run(["dpkg-deb", "--extract", file, folder], check=True)
    return folder


def _unprivileged(folder: Path) -> dict[str, Any]:
    """Who runs the server, as options for a process: not root, whom it refuses."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
