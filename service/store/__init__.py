"""What outlives the process: jobs, their events, the search's generations, candidates and state; API keys; webhooks."""

from service.store.claims import LEASE_S
from service.store.faults import FAULTS, RETRY_S
from service.store.store import Store
from service.store.view import View

__all__ = ["FAULTS", "LEASE_S", "RETRY_S", "Store", "View"]
