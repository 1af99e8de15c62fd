"""Everybody's jobs, and whoever is told when there is news of one."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.orm import Session

from ranksieve.service.store.database import Database
from ranksieve.service.store.queries import View

Listener = Callable[[str], None]
Clock = Callable[[Session], datetime]


class Told(View):
    """What every part of the store has: the database, the time that leases are measured by, and the listener.

    Args:
        database: Where the jobs are.
        clock: Tells the time.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        super().__init__(database, owner=None)
        self._clock = clock
        self.listener: Listener | None = None
        """Called with the job's id after each committed event, in the thread that committed it."""

    def _tell(self, id: str) -> None:
        if self.listener is not None:
            self.listener(id)
