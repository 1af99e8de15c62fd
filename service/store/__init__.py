"""What outlives the process: jobs, their events, and the search's generations, candidates and state."""

from service.store.store import Listener, Store

__all__ = ["Listener", "Store"]
