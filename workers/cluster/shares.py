"""Who has how much of the cluster: every job that runs holds as many actors as are its fair part by now.

A job waits for its first actor, and keeps that one until it ends. More come and go: when a job starts or ends, comes to
a phase that can use more or fewer, or is told by its user to have more or fewer, the cluster is divided anew (`workers.
fairness`). Nobody is interrupted: whoever has more than its part gives actors back when they have done their work, and
only then another job takes them. So no job ever starts what there is no room for.

The worker of a phase counts as an actor. Knows nothing of Ray.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ranksieve.search.errors import CancelledError
from ranksieve.workers.cluster.fairness import Amounts, Claim, divide, fits

logger = logging.getLogger(__name__)

POLL_S = 0.2


class Sharing:
    """The jobs that share one cluster."""

    def __init__(self) -> None:
        self.changed = threading.Condition()  # guards everything here, and in the shares
        self._capacity: Amounts = {}
        self._shares: list[Share] = []

    @contextmanager
    def enter(
        self,
        job: str,
        capacity: Amounts,
        size: Amounts,
        *,
        limit: int,
        priority: int,
        cancelled: threading.Event,
        on_held: Callable[[int], None] = lambda held: None,
        room: Amounts | None = None,
    ) -> Iterator["Share"]:
        """A job's part of the cluster, once there is room for one actor; given back when the block is left.

        Args:
            job: What the log calls it.
            capacity: What the cluster has by now.
            size: What one actor of the job asks for.
            limit: The job's user wants it to have so many actors at most.
            priority: Of the job.
            cancelled: Set when the job has to end; looked at every 0.2 s while it waits.
            on_held: Told how many actors the job has, whenever that changes.
            room: What one takes up of the capacity, which holds that; by default its size. See `cluster.fairness.room`.

        Raises:
            CancelledError: `cancelled` was set before there was room.
        """
        share = Share(self, job, size, room or size, limit, priority, on_held)
        with self.changed:
            self._capacity = capacity
            self._shares.append(share)
            self.divide()
        try:
            share.wait(cancelled)
            yield share
        finally:
            with self.changed:
                share.hold(0)
                self._shares.remove(share)
                self.divide()

    def divide(self) -> None:
        """Divides the cluster anew. Whoever has an actor keeps one; then the highest priority comes first, then age."""
        order = sorted(self._shares, key=lambda share: (share.held == 0, -share.priority))
        given = divide(self._capacity, [share.claim for share in order])
        for share, allowed in zip(order, given, strict=True):
            share.allow(allowed)
        self.changed.notify_all()

    def has_room(self, room: Amounts) -> bool:
        """Whether one more actor that takes up so much finds room beside those that are there."""
        free = dict(self._capacity)
        for share in self._shares:
            for name, units in share.room.items():
                free[name] = free.get(name, 0) - share.held * units
        return fits(free, room)


class Share:
    """One job's part of the cluster."""

    def __init__(
        self,
        sharing: Sharing,
        job: str,
        size: Amounts,
        room: Amounts,
        limit: int,
        priority: int,
        on_held: Callable[[int], None],
    ) -> None:
        self._sharing, self._changed = sharing, sharing.changed
        self._job = job
        self._on_held = on_held
        self._limit = limit
        self._useful: float = 1
        self._allowed = 0
        self.size, self.room, self.priority = size, room, priority
        self.held = 0
        """How many actors the job has."""

    @property
    def claim(self) -> Claim:
        """What the job asks for: no more than its user wants, and its phase can use."""
        return Claim(wants=int(min(self._limit, self._useful)), size=self.room, priority=self.priority)

    @property
    def excess(self) -> int:
        """How many actors the job should give back once they have done their work; it keeps one in any case."""
        with self._changed:
            return max(0, self.held - max(1, self._allowed))

    def wait(self, cancelled: threading.Event) -> None:
        """Waits for the first actor.

        Raises:
            CancelledError: `cancelled` was set.
        """
        with self._changed:
            while not self.take():
                if cancelled.is_set():
                    raise CancelledError("the job was cancelled")
                self._changed.wait(POLL_S)

    def take(self) -> bool:
        """Takes one more actor; False if the job has its part, or another job has not given back yet."""
        with self._changed:
            if self.held >= self._allowed or not self._sharing.has_room(self.room):
                return False
            self.hold(self.held + 1)
            return True

    def give_back(self) -> None:
        """Gives back an actor that has ended; the last one stays the job's."""
        with self._changed:
            self.hold(max(1, self.held - 1))

    def use(self, most: float) -> None:
        """A phase begins that can use so many actors."""
        with self._changed:
            self._useful = most
            self._sharing.divide()

    def rest(self) -> None:
        """A phase has ended, and its actors with it: the job keeps one, and has no use for more."""
        with self._changed:
            self.hold(min(1, self.held))
            self.use(1)

    def change(self, *, limit: int, priority: int) -> None:
        """The job's user wants it to have so many actors at most, and this priority."""
        with self._changed:
            self._limit, self.priority = limit, priority
            self._sharing.divide()

    def allow(self, actors: int) -> None:
        """Sets how many actors the job may have."""
        if actors != self._allowed:
            logger.info("job %s: may have %d actors, it has %d", self._job, actors, self.held)
        self._allowed = actors

    def hold(self, actors: int) -> None:
        """Sets how many actors the job has."""
        if actors != self.held:
            self.held = actors
            self._on_held(actors)
            self._changed.notify_all()
