"""An empty database gets its tables, and jobs that a database holds are read."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from databases import ON_EACH
from sqlalchemy import Engine, inspect, update

from ranksieve.search.errors import StoreError
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store
from ranksieve.service.store.engine import MIGRATIONS, new_engine
from ranksieve.service.store.schema import Base, JobRow


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    engine = new_engine(store_url)
    yield engine
    engine.dispose()


@ON_EACH
def test_an_empty_database_gets_the_tables_and_the_newest_revision(engine: Engine, store: Store) -> None:
    assert inspect(engine).get_table_names() == []

    store.open()

    assert {*Base.metadata.tables, "alembic_version"} == set(inspect(engine).get_table_names())
    with engine.connect() as connection:
        head = ScriptDirectory(str(MIGRATIONS)).get_current_head()
        assert MigrationContext.configure(connection).get_current_revision() == head


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unknown": 1}, r"spec\.unknown is not valid \(Extra inputs are not permitted\)"),
        ({"labels": {"team": "x" * 1000}}, r"spec\.labels is not valid \(Value error, must have names"),
    ],
)
def test_a_job_whose_stored_spec_is_not_valid_is_named(
    store: Store, make_spec: Callable[..., JobSpec], change: dict[str, Any], message: str
) -> None:
    job = store.submissions.create_job(make_spec())
    with store.database.writing() as session:
        session.execute(update(JobRow).values(spec=job.spec.canonical() | change))

    with pytest.raises(StoreError, match=f"job {job.id} cannot be read: its stored {message}.*; run the"):
        store.jobs()
