"""What outlives the process: jobs, their events, and the search's generations, candidates and state."""

from service.store.store import LEASE_S, Listener, Store

__all__ = ["LEASE_S", "Listener", "Store"]
