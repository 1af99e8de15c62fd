"""The database: everything of jobs, keys and webhooks that outlives the process.

Commits a change, its event and its deliveries together. Knows nothing of how a job is done.
"""

from ranksieve.service.store.claims import LEASE_S
from ranksieve.service.store.queries import View
from ranksieve.service.store.retries import FAULTS, RETRY_S
from ranksieve.service.store.store import Store

__all__ = ["FAULTS", "LEASE_S", "RETRY_S", "Store", "View"]
