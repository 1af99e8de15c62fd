"""Shares of the cluster: each running job holds its fair part of the actors.

A job waits for its first actor and keeps that one until it ends. More come and go. The cluster is divided anew
(`workers.cluster.fairness`) when a job starts or ends, comes to a phase that can use more or fewer actors, or gets
another limit from its user. No work is interrupted: a job with more than its part gives actors back when they have
finished, and only then another job takes them. So no job starts actors without room.

The worker of a phase counts as an actor. Knows nothing of Ray.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from ranksieve.search.errors import CancelledError, NoRoomError
from ranksieve.workers.cluster.fairness import Amounts, Claim, divide, fits, room

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
        nodes: Sequence[Amounts],
        size: Amounts,
        *,
        limit: int,
        priority: int,
        cancelled: threading.Event,
        on_held: Callable[[int], None] = lambda held: None,
    ) -> Iterator["Share"]:
        """Hold a job's share of the cluster, once there is room for one actor.

        The share is given back when the block is left.

        Args:
            job: Name of the job in the log.
            nodes: Present resources of each node of the cluster.
            size: Resources of one actor of the job.
            limit: Largest number of actors, set by the job's user.
            priority: Priority of the job.
            cancelled: Set when the job must end; checked every 0.2 s during the wait.
            on_held: Called with the number of the job's actors on every change.

        Raises:
            CancelledError: `cancelled` was set before there was room.
        """
        share = Share(self, job, size, limit, priority, on_held)
        with self.changed:
            self._shares.append(share)
            self.set_nodes(nodes)
        try:
            share.wait(cancelled)
            yield share
        finally:
            with self.changed:
                share.hold(0)
                self._shares.remove(share)
                self.divide()

    def set_nodes(self, nodes: Sequence[Amounts]) -> None:
        """Divide a cluster whose nodes have come or gone."""
        with self.changed:
            names = {name for node in nodes for name in node}
            self._capacity = {name: sum(node.get(name, 0) for node in nodes) for name in names}
            for share in self._shares:
                share.room = room(share.size, nodes)
            self.divide()

    def divide(self) -> None:
        """Divide the cluster anew.

        Jobs with an actor keep one; then the highest priority comes first, then age.
        """
        order = sorted(self._shares, key=lambda share: (share.held == 0, -share.priority))
        given = divide(self._capacity, [share.claim for share in order])
        for share, allowed in zip(order, given, strict=True):
            share.allow(allowed)
        self.changed.notify_all()

    def has_room(self, room: Amounts) -> bool:
        """Return whether one more actor that takes up `room` fits."""
        free = dict(self._capacity)
        for share in self._shares:
            for name, units in (share.room or share.size).items():
                free[name] = free.get(name, 0) - share.held * units
        return fits(free, room)


class Share:
    """One job's share of the cluster."""

    def __init__(
        self,
        sharing: Sharing,
        job: str,
        size: Amounts,
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
        self.size, self.priority = size, priority
        self.room: Amounts | None = size
        """Part of the cluster that one actor takes up; None: it fits into no node."""
        self.held = 0
        """Number of actors that the job holds."""

    @property
    def claim(self) -> Claim:
        """Claim of the job: no more actors than its user allows and its phase can use."""
        wants = 0 if self.room is None else int(min(self._limit, self._useful))
        return Claim(wants=wants, size=self.room or self.size, priority=self.priority)

    @property
    def excess(self) -> int:
        """Number of actors to give back once they have finished their work.

        The job keeps one in any case.
        """
        with self._changed:
            return max(0, self.held - max(1, self._allowed))

    def wait(self, cancelled: threading.Event) -> None:
        """Wait for the first actor.

        Raises:
            CancelledError: `cancelled` was set.
            NoRoomError: The nodes that had room have gone.
        """
        with self._changed:
            while not self.take():
                if cancelled.is_set():
                    raise CancelledError("the job was cancelled")
                self.require_room()
                self._changed.wait(POLL_S)

    def require_room(self) -> None:
        """Check that a node has room for an actor of the job.

        Raises:
            NoRoomError: The nodes that had room have gone, and the job's actors with them.
        """
        if self.room is None:
            raise NoRoomError("the last node with room for one of the job's actors has left the cluster")

    def take(self) -> bool:
        """Take one more actor if the job may have it now; return whether it did.

        It may not if it has its part, or if another job has not given back yet.
        """
        with self._changed:
            if self.held >= self._allowed or self.room is None or not self._sharing.has_room(self.room):
                return False
            self.hold(self.held + 1)
            return True

    def give_back(self) -> None:
        """Give back an actor that has ended; the job keeps its last one."""
        with self._changed:
            self.hold(max(1, self.held - 1))

    def use(self, most: float) -> None:
        """Begin a phase that can use `most` actors."""
        with self._changed:
            self._useful = most
            self._sharing.divide()

    def rest(self) -> None:
        """End a phase and give back its actors.

        The job keeps one and has no use for more.
        """
        with self._changed:
            self.hold(min(1, self.held))
            self.use(1)

    def change(self, *, limit: int, priority: int) -> None:
        """Set the user's limit of actors and priority of the job."""
        with self._changed:
            self._limit, self.priority = limit, priority
            self._sharing.divide()

    def allow(self, actors: int) -> None:
        """Set how many actors the job may hold."""
        if actors != self._allowed:
            logger.info("job %s: may hold %d actors, holds %d", self._job, actors, self.held)
        self._allowed = actors

    def hold(self, actors: int) -> None:
        """Set how many actors the job holds."""
        if actors != self.held:
            self.held = actors
            self._on_held(actors)
            self._changed.notify_all()
