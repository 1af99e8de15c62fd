"""Base of the parts of the store: database, clock and commit listener."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.orm import Session

from ranksieve.service.store.database import Database

Listener = Callable[[str], None]
Clock = Callable[[Session], datetime]


class Base:
    """Database, clock and commit listener.

    Args:
        database: Database of the jobs.
        clock: Time that leases are measured by.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database = database
        self.clock = clock
        self.listener: Listener | None = None
        """Callback with the job's id after each committed event.

        It runs in the thread that committed the event.
        """

    def notify(self, id: str) -> None:
        """Notify the listener of news about a job."""
        if self.listener is not None:
            self.listener(id)
