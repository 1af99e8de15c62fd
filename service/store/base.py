"""What the parts of the store share: database, clock and commit listener."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.orm import Session

from ranksieve.service.store.database import Database

Listener = Callable[[str], None]
Clock = Callable[[Session], datetime]


class Base:
    """Database, clock and commit listener.

    Args:
        database: Where the jobs are.
        clock: The time that leases are measured by.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self.database = database
        self.clock = clock
        self.listener: Listener | None = None
        """Called with the job's id after each committed event, in the thread that committed it."""

    def notify(self, id: str) -> None:
        """Tell the listener of a job with news."""
        if self.listener is not None:
            self.listener(id)
