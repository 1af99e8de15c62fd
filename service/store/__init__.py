"""Database of jobs, keys and webhooks.

Commits a change, its event and its deliveries together. `Store` reads through `view.View` and writes through its parts,
one file each. Knows nothing of how a job is done.
"""

from ranksieve.service.store.claims import LEASE_S
from ranksieve.service.store.retries import FAULTS, RETRY_S
from ranksieve.service.store.store import Store
from ranksieve.service.store.view import View

__all__ = ["FAULTS", "LEASE_S", "RETRY_S", "Store", "View"]
