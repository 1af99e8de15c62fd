"""What outlives the process: jobs, their events, the search's generations, candidates and state; API keys."""

from service.store.store import LEASE_S, Listener, Store
from service.store.view import View

__all__ = ["LEASE_S", "Listener", "Store", "View"]
