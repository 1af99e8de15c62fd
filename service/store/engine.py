"""Engine of the database: reliable connections, tables and their migrations."""

import json
import sqlite3
import threading
from functools import partial
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, func, select
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from ranksieve.search.errors import ConflictError, InputError
from ranksieve.service.job.redaction import redact
from ranksieve.service.store.schema import Base

MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_TIMEOUT_S = 30
LONGEST_IDLE_S = 20
"""Longest idle time of a transaction on PostgreSQL, in seconds.

Transactions of a store take milliseconds, but a starved machine may hold up a process for seconds during one.
"""

# Alembic keeps the migration under way in a global, so one thread migrates at a time.
_MIGRATING = threading.Lock()
_MIGRATION_LOCK = 0x72616E6B  # any number that nothing else in the database locks


def new_engine(url: str) -> Engine:
    """Create an engine with real transactions, on SQLite too; touches no file yet.

    A connection with the execution option `writes` takes SQLite's write lock at its first statement. Two transactions
    that read and then write would otherwise fail with `database is locked`, whatever the timeout. Floats that JSON
    cannot represent (NaN, infinities) are refused.

    Args:
        url: SQLAlchemy URL, e.g. `sqlite:////var/lib/ranksieve/ranksieve.db` or `postgresql://me@db/ranksieve`.

    Raises:
        InputError: The URL is not of a supported database, or the database's driver is missing.
    """
    parsed = _database_of(url)
    is_sqlite = parsed.get_backend_name() == "sqlite"
    try:
        engine = create_engine(
            parsed,
            json_serializer=partial(json.dumps, allow_nan=False),
            pool_pre_ping=not is_sqlite,
            hide_parameters=True,  # errors are logged, and among the values are webhooks and their secrets
        )
    except ModuleNotFoundError as error:
        raise InputError(
            "database_url", f"needs a driver: {error}; run pip install 'ranksieve[postgres]'"
        ) from error
    if is_sqlite:
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    else:
        event.listen(engine, "connect", _configure_postgresql)
    return engine


def _database_of(url: str) -> URL:
    """Parse the URL of a supported database.

    Errors leave the URL out, because it may hold a password.
    """
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
        parsed.get_dialect()
    except (ArgumentError, NoSuchModuleError, ValueError):  # a port that is no number is a ValueError
        backend = None
    if backend not in ("sqlite", "postgresql"):
        raise InputError(
            "database_url", "must be a SQLAlchemy URL that begins with sqlite:/// or postgresql://"
        )
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise InputError("database_url", f"must name a file, e.g. sqlite:///ranksieve.db; got {url}")
    return parsed


def shown(engine: Engine) -> str:
    """Return the URL of the database without passwords."""
    return redact(repr(engine.url))


def upgrade(engine: Engine) -> None:
    """Create the tables, or migrate those of an earlier version, in one transaction.

    Servers that start together take turns.

    Raises:
        ConflictError: Another version of the program has migrated this database.
    """
    with _MIGRATING, engine.execution_options(writes=True).begin() as connection:
        if connection.dialect.name == "postgresql":  # SQLite's write lock is held already
            connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
        config = _migration_config(connection)
        if MigrationContext.configure(connection).get_current_revision() is None:
            Base.metadata.create_all(connection)
            command.stamp(config, "head")
            return
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise ConflictError(
                f"cannot bring {shown(engine)} to this version's schema: {error}; "
                "run the ranksieve that wrote it, or give another data_dir"
            ) from error


def _migration_config(connection: Connection) -> Config:
    """Return settings of alembic for this connection; there is no ini file."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def _configure_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    """Set a write-ahead log and full sync.

    Readers never wait for the writer, and a commit survives a power cut.
    """
    connection.isolation_level = None  # the driver begins nothing by itself; _begin_sqlite does
    connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")


def _configure_postgresql(connection: Any, _record: Any) -> None:
    """Limit idle transactions.

    A server that froze or lost its connection must not lock its jobs for other servers.
    """
    with connection.cursor() as cursor:
        cursor.execute(f"SET idle_in_transaction_session_timeout = '{LONGEST_IDLE_S}s'")
    connection.commit()


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
