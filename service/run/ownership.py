"""A server's hold on its data directory and its database: one server has it at a time.

Servers that share a PostgreSQL database may share the directory, too: there, leases in the database say who runs a job.
With SQLite there is one server, and whoever had a job before it is dead.
"""

import os
from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock, Timeout

from ranksieve.search.errors import ConflictError
from ranksieve.service.server.settings import Settings
from ranksieve.service.store import Store


def make_data_dir(settings: Settings) -> None:
    """Makes the data directory, for this user alone, if it is not there."""
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)


def take(settings: Settings, store: Store) -> ExitStack:
    """Takes both for this server before either is changed, and opens the store.

    Returns:
        What gives them back when it is closed.

    Raises:
        ConflictError: Another server owns the directory or the database, or a newer version wrote that.
        StoreError: The database cannot be opened.
    """
    make_data_dir(settings)
    with ExitStack() as owned:
        if not settings.shares_store:
            file, data_dir = settings.sqlite_file, settings.data_dir
            _lock(owned, data_dir / "lock", f"{data_dir}; stop it or give another RANKSIEVE_DATA_DIR")
            if os.access(file.parent, os.W_OK):  # else the store tells
                _lock(owned, Path(f"{file}.lock"), f"{file}; stop it or give another RANKSIEVE_DATABASE_URL")
        owned.callback(store.close)
        store.open()
        return owned.pop_all()


def _lock(owned: ExitStack, file: Path, what: str) -> None:
    lock = FileLock(file, thread_local=False)  # it may be given back by another thread
    try:
        owned.enter_context(lock.acquire(blocking=False))
    except Timeout as error:
        raise ConflictError(f"another ranksieve server owns {what}") from error
