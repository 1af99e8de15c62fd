import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from databases import ON_EACH
from sqlalchemy import Engine, inspect, make_url, text
from sqlalchemy.exc import DBAPIError

from ranksieve.search.errors import ConflictError, InputError, StoreError
from ranksieve.service.job.job import Job
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store, mapping
from ranksieve.service.store.database import Database
from ranksieve.service.store.engine import new_engine, shown, upgrade


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    """An empty database on each backend."""
    engine = new_engine(store_url)
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite_engine(
    tmp_path: Path, unsynced_sqlite: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Engine]:
    """Configured as in production, unlike other engines of the tests."""
    monkeypatch.setattr("ranksieve.service.store.engine._configure_sqlite", unsynced_sqlite)
    engine = new_engine(f"sqlite:///{tmp_path / 'jobs.db'}")
    yield engine
    engine.dispose()


@ON_EACH
def test_upgrading_again_changes_nothing_and_sets_up_no_logging(engine: Engine) -> None:
    root_handlers = list(logging.getLogger().handlers)
    alembic_level = logging.getLogger("alembic").level

    upgrade(engine)
    upgrade(engine)

    assert logging.getLogger().handlers == root_handlers
    assert logging.getLogger("alembic").level == alembic_level


@ON_EACH
def test_a_database_of_another_version_is_left_alone(engine: Engine) -> None:
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(ConflictError, match="run the ranksieve that wrote it"):
        upgrade(engine)


@ON_EACH
def test_what_was_to_be_written_is_in_no_error(engine: Engine) -> None:
    with engine.connect() as connection, pytest.raises(DBAPIError) as caught:
        connection.execute(text("INSERT INTO nowhere VALUES (:url)"), {"url": "https://hooks.test/T0KEN"})

    assert "nowhere" in str(caught.value)
    assert "T0KEN" not in str(caught.value)


def test_sqlite_is_set_up_to_lose_nothing(sqlite_engine: Engine) -> None:
    with sqlite_engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }

    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="database_url: must name a file"):
        new_engine(url)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://me:s3cret@db/jobs",
        "nosuch://me:s3cret@db/jobs",
        "s3cret",
        "postgresql://me:s3cret@db:port/jobs",
    ],
)
def test_another_database_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InputError, match="must be a SQLAlchemy URL") as refused:
        new_engine(url)

    assert "s3cret" not in str(refused.value)


def test_which_database_it_is_is_told_without_a_password_among_its_parameters() -> None:
    engine: Any = SimpleNamespace(
        url=make_url("postgresql://db/jobs?password=s3cret&connect_timeout=5&sslpassword=s3cret")
    )
    printed = shown(engine)
    assert "//db/jobs" in printed
    assert "connect_timeout=5" in printed
    assert "s3cret" not in printed


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"not one" * 1000)
    with pytest.raises(StoreError, match=r"jobs.db cannot be opened: .*file is not a database"):
        Database(f"sqlite:///{tmp_path}/jobs.db").open()


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(InputError, match=r"psycopg.* run pip install 'ranksieve\[postgres\]'"):
        new_engine("postgresql://db/jobs")


@ON_EACH
def test_servers_that_start_together_migrate_once(engine: Engine) -> None:
    others = [new_engine(engine.url.render_as_string(hide_password=False)) for _ in range(4)]
    try:
        with ThreadPoolExecutor(len(others)) as pool:
            list(pool.map(upgrade, others))
    finally:
        for other in others:
            other.dispose()

    assert "jobs" in inspect(engine).get_table_names()


def test_a_server_that_froze_in_mid_transaction_does_not_keep_its_job(
    postgres: Any, make_spec: Callable[..., JobSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ranksieve.service.store.engine.LONGEST_IDLE_S", 1)
    url = postgres.create()
    frozen, other = Store(url), Store(url)
    frozen.submissions.create_job(make_spec())
    job = frozen.claims.claim_next(lease_s=0)
    assert job is not None

    def freeze() -> None:
        nonlocal taken
        with frozen.database.writing() as session:
            mapping.find_held(session, job.id, job.epoch)
            assert other.claims.claim_next() is None  # the row is locked
            deadline = time.monotonic() + 20
            while taken is None and time.monotonic() < deadline:
                threading.Event().wait(0.1)
                taken = other.claims.claim_next()

    taken: Job | None = None
    with pytest.raises(StoreError, match="idle"):
        freeze()
    assert taken is not None
    assert taken.epoch == job.epoch + 1
    frozen.close()
    other.close()
