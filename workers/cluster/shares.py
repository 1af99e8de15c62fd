"""Shares of the cluster: each running job holds its fair part of its places.

A job waits for its first actor and keeps that one until it ends. More come and go. The cluster is divided anew
(`workers.cluster.fairness`) when a job starts or ends, comes to a phase that can use more or fewer actors, or gets
another limit from its user, and when nodes come or go. No work is interrupted: a job with more than its part gives
actors back when they have finished, and only then another job takes their places. So no job starts actors without
room. Places on a node that has left are lost at once.

The worker of a phase counts as an actor. Knows nothing of Ray.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from ranksieve.search.errors import CancelledError, NoRoomError
from ranksieve.workers.cluster.fairness import Claim, divide
from ranksieve.workers.cluster.packing import Amounts, Place, Room, places

logger = logging.getLogger(__name__)

POLL_S = 0.2

LONG_S = 10.0
"""Wait for a first actor after which the job's user is told, in seconds."""


class Sharing:
    """The jobs that share one cluster."""

    def __init__(self) -> None:
        self.changed = threading.Condition()  # guards everything here, and in the shares
        self.rooms: dict[str, Room] = {}
        """What no job holds of each node."""
        self._nodes: Mapping[str, Amounts] = {}
        self._shares: list[Share] = []

    @contextmanager
    def enter(
        self,
        job: str,
        nodes: Mapping[str, Amounts],
        size: Amounts,
        *,
        limit: int,
        priority: int,
        cancelled: threading.Event,
        on_held: Callable[[int], None] = lambda held: None,
        on_notice: Callable[[str], None] = lambda reason: None,
    ) -> Iterator["Share"]:
        """Hold a job's share of the cluster, once there is room for one actor.

        The share is given back when the block is left.

        Args:
            job: Name of the job in the log.
            nodes: Present resources of each node of the cluster, by name.
            size: Resources of one actor of the job.
            limit: Largest number of actors, set by the job's user.
            priority: Priority of the job.
            cancelled: Set when the job must end; checked every 0.2 s during the wait.
            on_held: Called with the number of the job's actors on every change.
            on_notice: Called with the reason when the job has waited for an actor for long.

        Raises:
            CancelledError: `cancelled` was set before there was room.
        """
        share = Share(self, job, size, limit, priority, on_held, on_notice)
        with self.changed:
            self._shares.append(share)
            self.set_nodes(nodes)
        try:
            share.wait(cancelled)
            yield share
        finally:
            with self.changed:
                share.keep(0)
                self._shares.remove(share)
                self.divide()

    def set_nodes(self, nodes: Mapping[str, Amounts]) -> None:
        """Divide a cluster whose nodes have come or gone."""
        with self.changed:
            self._nodes = nodes
            self.rooms = {name: Room(name, node) for name, node in nodes.items()}
            for share in self._shares:
                share.follow(nodes)
            self.divide()

    def divide(self) -> None:
        """Divide the cluster anew.

        Jobs with an actor keep one; then the highest priority comes first, then age.
        """
        order = sorted(self._shares, key=lambda share: (share.held == 0, -share.priority))
        given = divide(self._nodes, [share.claim for share in order])
        for share, allowed in zip(order, given, strict=True):
            share.allow(allowed)
        self.changed.notify_all()


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
        on_notice: Callable[[str], None],
    ) -> None:
        self._sharing, self._changed = sharing, sharing.changed
        self._job = job
        self._on_held, self._on_notice = on_held, on_notice
        self._limit = limit
        self._useful: float = 1
        self._allowed = Counter[str]()
        self._places: list[Place] = []
        self._fits = True
        self.size, self.priority = size, priority

    @property
    def held(self) -> int:
        """Number of actors that the job holds."""
        return len(self._places)

    @property
    def claim(self) -> Claim:
        """Claim of the job: no more actors than its user allows and its phase can use."""
        wants = int(min(self._limit, self._useful))
        return Claim(wants=wants, size=self.size, priority=self.priority, held=self._held())

    @property
    def excess(self) -> Counter[str]:
        """Number of actors to give back on each node once they have finished their work.

        The job keeps one in any case.
        """
        with self._changed:
            excess = self._held() - self._allowed
            if self._places and excess.total() == self.held:
                excess[self._places[0].node] -= 1
            return +excess

    def holds(self, place: Place) -> bool:
        """Return whether the node of a place that was taken is still there."""
        with self._changed:
            return place in self._places

    def wait(self, cancelled: threading.Event) -> Place:
        """Return the place of the first actor; wait for one if the job has none.

        Raises:
            CancelledError: `cancelled` was set.
            NoRoomError: The nodes that had room have gone.
        """
        since_s, told = time.monotonic(), False
        while (place := self._first()) is None:
            if cancelled.is_set():
                raise CancelledError("the job was cancelled")
            self.require_room()
            if not told and time.monotonic() - since_s > LONG_S:
                told = True
                self.tell("other jobs hold all nodes that one actor of this job fits on; it waits for them")
            with self._changed:
                self._changed.wait(POLL_S)
        return place

    def _first(self) -> Place | None:
        with self._changed:
            return self._places[0] if self._places else self.take()

    def tell(self, reason: str) -> None:
        """Tell the job's user why an actor waits."""
        self._on_notice(reason)

    def require_room(self) -> None:
        """Check that a node has room for an actor of the job.

        Raises:
            NoRoomError: The nodes that had room have gone, and the job's actors with them.
        """
        if not self._fits:
            raise NoRoomError("the last node with room for one of the job's actors has left the cluster")

    def take(self) -> Place | None:
        """Take a place for one more actor; None if the job may not have one now.

        It may not if it has its part, or if another job has not given back yet.
        """
        with self._changed:
            for node in self._allowed - self._held():
                if (place := self._sharing.rooms[node].take(self.size)) is not None:
                    self._hold([*self._places, place])
                    return place
            return None

    def give_back(self, place: Place) -> None:
        """Give back the place of an actor that has ended; the job keeps its last one."""
        with self._changed:
            if place in self._places and self.held > 1:
                kept = list(self._places)
                kept.remove(place)
                self._free([place])
                self._hold(kept)

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
            self.keep(1)
            self.use(1)

    def change(self, *, limit: int, priority: int) -> None:
        """Set the user's limit of actors and priority of the job."""
        with self._changed:
            self._limit, self.priority = limit, priority
            self._sharing.divide()

    def allow(self, actors: Counter[str]) -> None:
        """Set how many actors the job may hold on each node."""
        if actors.total() != self._allowed.total():
            logger.info("job %s: may hold %d actors, holds %d", self._job, actors.total(), self.held)
        self._allowed = actors

    def keep(self, actors: int) -> None:
        """Give back all but the first actors."""
        self._free(self._places[actors:])
        self._hold(self._places[:actors])

    def follow(self, nodes: Mapping[str, Amounts]) -> None:
        """Lose the places on nodes that have gone; occupy those on the others."""
        self._fits = places(self.size, nodes, most=1) > 0
        kept = [place for place in self._places if place.node in nodes]
        for place in kept:
            self._sharing.rooms[place.node].occupy(self.size, place)
        self._hold(kept)

    def _held(self) -> Counter[str]:
        return Counter(place.node for place in self._places)

    def _free(self, places: list[Place]) -> None:
        for place in places:
            self._sharing.rooms[place.node].occupy(self.size, place, -1)

    def _hold(self, places: list[Place]) -> None:
        changed = len(places) != self.held
        self._places = places
        if changed:
            self._on_held(self.held)
            self._changed.notify_all()
