import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, Table, inspect, text
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.schema import CreateTable

from search.errors import ConflictError, InputError
from service.store.engine import migration_config, new_engine, upgrade
from service.store.schema import Base


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = new_engine(f"sqlite:///{tmp_path / 'jobs.db'}")
    yield engine
    engine.dispose()


def test_the_last_migration_makes_the_tables_the_code_speaks_of(engine: Engine) -> None:
    upgrade(engine)

    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_upgrading_again_changes_nothing_and_sets_up_no_logging(engine: Engine) -> None:
    root_handlers = list(logging.getLogger().handlers)
    alembic_level = logging.getLogger("alembic").level

    upgrade(engine)
    upgrade(engine)

    assert logging.getLogger().handlers == root_handlers
    assert logging.getLogger("alembic").level == alembic_level


def test_migrations_lead_back_to_an_empty_database(engine: Engine) -> None:
    upgrade(engine)

    with engine.begin() as connection:
        command.downgrade(migration_config(connection), "base")

    assert inspect(engine).get_table_names() == ["alembic_version"]


def test_a_database_of_a_newer_version_is_left_alone(engine: Engine) -> None:
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(ConflictError, match="run the newer ranksieve"):
        upgrade(engine)


def test_sqlite_is_set_up_to_lose_nothing(engine: Engine) -> None:
    with engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }

    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 30_000}


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="database_url: must name a file"):
        new_engine(url)


@pytest.mark.parametrize("table", Base.metadata.sorted_tables, ids=lambda table: table.name)
def test_tables_can_be_made_on_postgresql(table: Table) -> None:
    ddl = str(CreateTable(table).compile(dialect=PGDialect()))  # type: ignore[no-untyped-call]

    assert "JSON" in ddl or "TIMESTAMP WITH TIME ZONE" in ddl
