"""What outlives the process: jobs, their events, the search's generations, candidates and state; API keys; webhooks."""

from ranksieve.service.store.claims import LEASE_S
from ranksieve.service.store.queries import View
from ranksieve.service.store.retries import FAULTS, RETRY_S
from ranksieve.service.store.store import Store

__all__ = ["FAULTS", "LEASE_S", "RETRY_S", "Store", "View"]
