"""Ownership of a data directory and its database by one server at a time.

Servers that share a PostgreSQL database may share the directory, too: leases in the database say which server runs a
job. With SQLite there is one server, so earlier holders of jobs are dead.
"""

import os
from contextlib import ExitStack
from pathlib import Path

from filelock import FileLock, Timeout

from ranksieve.search.errors import ConflictError
from ranksieve.service.server.settings import Settings
from ranksieve.service.store import Store


def make_data_dir(settings: Settings) -> None:
    """Create the data directory, for this user alone, if it is missing."""
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)


def take(settings: Settings, store: Store) -> ExitStack:
    """Take directory and database for this server, and open the store.

    Both are taken before either is changed.

    Returns:
        A stack that releases both when it is closed.

    Raises:
        ConflictError: Another server owns the directory or the database, or a newer version wrote the database.
        StoreError: The database cannot be opened.
    """
    make_data_dir(settings)
    with ExitStack() as owned:
        if not settings.shares_store:
            file, data_dir = settings.sqlite_file, settings.data_dir
            _lock(owned, data_dir / "lock", f"{data_dir}; stop it or give another RANKSIEVE_DATA_DIR")
            if os.access(file.parent, os.W_OK):  # else the store raises
                _lock(owned, Path(f"{file}.lock"), f"{file}; stop it or give another RANKSIEVE_DATABASE_URL")
        owned.callback(store.close)
        store.open()
        return owned.pop_all()


def _lock(owned: ExitStack, file: Path, what: str) -> None:
    lock = FileLock(file, thread_local=False)  # it may be released by another thread
    try:
        owned.enter_context(lock.acquire(blocking=False))
    except Timeout as error:
        raise ConflictError(f"another ranksieve server owns {what}") from error
