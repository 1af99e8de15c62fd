"""What outlives the process: jobs, their events, the search's generations, candidates and state; API keys; webhooks.

`Store` reads through `view.View` and writes through its parts, one file each: `submissions` (created, deleted),
`user_requests` (paused, changed, ...), `claims` (who runs a job), `runs` (what a run writes), `cleanup`, `outbox`,
`webhooks`, `keys`.
"""

from ranksieve.service.store.claims import LEASE_S
from ranksieve.service.store.retries import FAULTS, RETRY_S
from ranksieve.service.store.store import Store
from ranksieve.service.store.view import View

__all__ = ["FAULTS", "LEASE_S", "RETRY_S", "Store", "View"]
