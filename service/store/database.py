"""Transactions on a database whose schema is up to date."""

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Engine
from sqlalchemy.exc import DatabaseError, InterfaceError, InternalError, OperationalError, TimeoutError
from sqlalchemy.orm import Session

from ranksieve.search.errors import StoreError
from ranksieve.service.store.engine import new_engine, shown, upgrade

FAILURES = (OperationalError, InterfaceError, InternalError, TimeoutError)
"""Exceptions of SQLAlchemy for failures of the database, not of the program."""


class Database:
    """SQL database, safe to use from any thread.

    Args:
        url: SQLAlchemy URL of a SQLite file or a PostgreSQL database. `open` or the first use opens it.
    """

    def __init__(self, url: str) -> None:
        self._engine = new_engine(url)
        self._writes = self._engine.execution_options(writes=True)
        self._opening = threading.Lock()
        self._opened = False

    def open(self) -> None:
        """Bring the schema up to date, once.

        Raises:
            ConflictError: Another version of the program has migrated this database.
            StoreError: The database does not answer, or cannot be written to.
        """
        with self._opening:
            if not self._opened:
                try:
                    upgrade(self._engine)
                except (*FAILURES, DatabaseError) as error:  # DatabaseError: the file is not SQLite
                    raise StoreError(
                        f"the job store {shown(self._engine)} cannot be opened: {_cause(error)}; {self._remedy()}"
                    ) from error
                self._opened = True

    def close(self) -> None:
        """Close every idle connection."""
        self._engine.dispose()

    def reading(self) -> AbstractContextManager[Session]:
        """Open a read-only transaction for a `with` block."""
        return self._session(self._engine)

    def writing(self) -> AbstractContextManager[Session]:
        """Open a transaction, committed at the end of the block, undone on errors.

        Raises:
            StoreError: The database failed; nothing was changed.
        """
        return self._session(self._writes)

    @contextmanager
    def _session(self, engine: Engine) -> Iterator[Session]:
        try:
            self.open()
            with Session(engine, expire_on_commit=False) as session, session.begin():
                yield session
        except FAILURES as error:
            raise StoreError(f"the job store failed: {_cause(error)}") from error

    def _remedy(self) -> str:
        if self._engine.dialect.name != "sqlite":
            return "see that it runs and lets this server in"
        return (
            f"let user {os.geteuid()} write to its folder, or give another RANKSIEVE_DATA_DIR or "
            "RANKSIEVE_DATABASE_URL"
        )


def _cause(error: Exception) -> str:
    """Return the driver's message.

    SQLAlchemy's own text holds the statement and its values.
    """
    cause = getattr(error, "orig", None) or error
    return f"{type(cause).__name__}: {cause}"
