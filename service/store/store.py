"""Job store: a change of a job, its event and its deliveries in one transaction.

Safe to use from any thread and from several servers. Readers never wait.
"""

from ranksieve.service.store.base import Base, Clock
from ranksieve.service.store.claims import Claims
from ranksieve.service.store.cleanup import Cleanup
from ranksieve.service.store.database import Database
from ranksieve.service.store.keys import Keys
from ranksieve.service.store.outbox import Outbox
from ranksieve.service.store.runs import Runs
from ranksieve.service.store.submissions import Submissions
from ranksieve.service.store.times import database_time
from ranksieve.service.store.user_requests import UserRequests
from ranksieve.service.store.view import View


class Store(View):
    """View of all owners, and the parts that write.

    A method that raises has changed nothing.

    Args:
        url: See `Database`.
        clock: Time that leases are measured by.
    """

    def __init__(self, url: str, clock: Clock = database_time) -> None:
        base = Base(Database(url), clock)
        super().__init__(base.database, owner=None)
        self.base = base
        self.submissions = Submissions(base)
        self.user_requests = UserRequests(base)
        self.claims = Claims(base)
        self.runs = Runs(base)
        self.cleanup = Cleanup(base)
        self.outbox = Outbox(base)
        self.keys = Keys(base.database)

    def open(self) -> None:
        """Bring the schema up to date, once; see `Database.open`."""
        self.database.open()

    def close(self) -> None:
        """Close every idle connection."""
        self.database.close()

    def seen_by(self, owner: str | None) -> View:
        """Return the view of one owner; None for all."""
        return View(self.database, owner)
