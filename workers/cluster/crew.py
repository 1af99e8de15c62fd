"""The scoring actors of one job, within its share of the cluster.

More actors are started as soon as the job may have them. When it has too many, those end that rest, have not started
yet or are idle; working actors finish their work. Actors that die are replaced, unless their node has left. An actor
that fails again and again rests, longer every time (`workers.cluster.breaker`), and others do its work.
"""

import itertools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray._private import state
from ray.actor import ActorHandle
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)

from ranksieve.search.errors import InfrastructureError
from ranksieve.workers.cluster.breaker import FAILURES, Breaker
from ranksieve.workers.cluster.packing import Place
from ranksieve.workers.cluster.shares import Share

logger = logging.getLogger(__name__)

START_S = 1800.0
"""Longest time that an actor may take to start and load the model, in seconds.

It is given no request before.
"""

PLACED_S = 10.0
"""Wait of an actor for its place after which the job's user is told, in seconds."""

NOT_PLACED = (
    "Ray has not placed actor {actor} yet: another program or server holds a part of the node that is free by this "
    "server's books"
)

LOST = (RayActorError, OutOfMemoryError, ObjectLostError, NodeDiedError)
"""Errors of Ray for an actor or an answer lost with its process or node."""


@dataclass(kw_only=True, slots=True)
class _Actor:
    """An actor that is starting, up or resting.

    `started` is answered once the actor is ready, `START_S` after `since_s` at the latest. `rests_until` is the end of
    its rest. `told`: whether the job's user was told that it is not placed.
    """

    handle: ActorHandle
    started: Any
    since_s: float
    told: bool = False
    is_up: bool = False
    rests_until: float | None = None


@dataclass(kw_only=True, slots=True)
class _Post:
    """A place with an actor and its circuit breaker.

    Place and breaker stay when the actor is replaced.
    """

    place: Place
    actor: _Actor
    breaker: Breaker = field(default_factory=Breaker)


class Crew:
    """The actors of one job, by number.

    Args:
        start_actor: Function that starts an actor at a place.
        share: The job's share of the cluster.
        cancelled: Set when the job must end; ends a wait for the first actor.
        on_replaced: Called with (actor number, reason) when an actor is replaced.

    Raises:
        CancelledError: `cancelled` was set.
        NoRoomError: The nodes that had room have gone.
    """

    def __init__(
        self,
        start_actor: Callable[[Place], ActorHandle],
        share: Share,
        cancelled: threading.Event,
        on_replaced: Callable[[int, str], None],
    ) -> None:
        self._start_actor = start_actor
        self._share = share
        self._on_replaced = on_replaced
        self._beliefs: Any = None
        self._numbers = itertools.count()
        self._posts: dict[int, _Post] = {}
        share.use(math.inf)
        self._add(share.wait(cancelled))
        self._add_allowed()

    def __getitem__(self, number: int) -> ActorHandle:
        return self._posts[number].actor.handle

    def up(self) -> list[int]:
        """Return the actors that have started and have all beliefs."""
        return [number for number, actor in self._actors() if actor.is_up]

    def starting(self) -> dict[Any, int]:
        """Return the actors that are starting: Ray's reference → number."""
        return {
            actor.started: number
            for number, actor in self._actors()
            if not actor.is_up and actor.rests_until is None
        }

    def set_beliefs(self, beliefs: Any) -> None:
        """Give every present and later actor the dense model's beliefs.

        No actor is up again before it has them.
        """
        self._beliefs = ray.put(beliefs)
        for post in self._posts.values():
            if post.actor.rests_until is None:
                post.actor = self._readied(post.actor.handle)

    def resize(self, idle: deque[int]) -> None:
        """Start and end actors to fit the share.

        Args:
            idle: Numbers of idle actors; those that end are removed from it.

        Raises:
            NoRoomError: The nodes that had room for an actor have gone.
        """
        self._share.require_room()
        self._leave_lost(idle)
        excess = self._share.excess
        for number in self._dispensable(idle):  # called again when the others have finished
            node = self._posts[number].place.node
            if excess[node]:
                excess[node] -= 1
                self._end(number, idle)
        self._add_allowed()
        now = time.monotonic()
        for post in self._posts.values():
            if post.actor.rests_until is not None and post.actor.rests_until <= now:
                post.actor = self._started(post.place)

    def joins(self, number: int) -> bool:
        """Return whether an actor that Ray has answered for is up.

        It is replaced if it failed instead.
        """
        actor = self._posts[number].actor
        try:
            ray.get(actor.started)
        except RayError as error:
            self.replace(number, f"failed before its work: {reason_of(error)}")
        else:
            actor.is_up = True
        return actor.is_up

    def answered(self, number: int) -> None:
        """Record that an actor has finished its work."""
        self._posts[number].breaker.answer()

    def replace_late(self) -> None:
        """Replace actors that take too long to start.

        The job's user is told of those that Ray has not placed.
        """
        for number in self.starting().values():
            actor = self._posts[number].actor
            waited_s = time.monotonic() - actor.since_s
            if waited_s > START_S:
                self.replace(number, f"did not start within {START_S:g} s")
            elif waited_s > PLACED_S and not actor.told:
                actor.told = True
                if not _is_placed(actor.handle):
                    self._share.tell(NOT_PLACED.format(actor=number))

    def replace(self, number: int, reason: str) -> None:
        """End an actor and start another in its place, at once or after a rest.

        None is started if its node has left.

        Raises:
            InfrastructureError: All actors keep failing.
        """
        post = self._posts[number]
        if not self._share.holds(post.place):
            ray.kill(post.actor.handle)
            del self._posts[number]
            self._on_replaced(number, reason)
            return
        rest_s = post.breaker.fail()
        if all(post.breaker.is_out for post in self._posts.values()):
            raise InfrastructureError(
                f"all actors failed more than {FAILURES} times in a row, the last one {reason}; "
                "check the memory and the logs of the machine"
            )
        logger.warning("actor %d %s; replacing it in %g s", number, reason, rest_s)
        ray.kill(post.actor.handle)
        post.actor.is_up, post.actor.rests_until = False, time.monotonic() + rest_s
        self._on_replaced(number, reason)

    def close(self) -> None:
        """Kill every actor."""
        for _, actor in self._actors():
            ray.kill(actor.handle)
        self._posts = {}
        self._share.rest()

    def _actors(self) -> Iterator[tuple[int, _Actor]]:
        return ((number, post.actor) for number, post in self._posts.items())

    def _dispensable(self, idle: deque[int]) -> list[int]:
        """Return the actors that do no work, those to end first before the others."""
        resting = [number for number, actor in self._actors() if actor.rests_until is not None]
        return [*reversed(resting), *reversed(self.starting().values()), *reversed(idle)]

    def _leave_lost(self, idle: deque[int]) -> None:
        """End the actors on nodes that have left.

        Those at work are found when their work fails.
        """
        for number in self._dispensable(idle):
            if not self._share.holds(self._posts[number].place):
                self._end(number, idle)
                self._on_replaced(number, "its node has left the cluster")

    def _end(self, number: int, idle: deque[int]) -> None:
        post = self._posts.pop(number)
        ray.kill(post.actor.handle)
        if number in idle:
            idle.remove(number)
        self._share.give_back(post.place)

    def _add_allowed(self) -> None:
        while (place := self._share.take()) is not None:
            self._add(place)

    def _add(self, place: Place) -> None:
        self._posts[next(self._numbers)] = _Post(place=place, actor=self._started(place))

    def _started(self, place: Place) -> _Actor:
        return self._readied(self._start_actor(place))

    def _readied(self, handle: ActorHandle) -> _Actor:
        ready = handle.pid.remote() if self._beliefs is None else handle.set_beliefs.remote(self._beliefs)
        return _Actor(handle=handle, started=ready, since_s=time.monotonic())


def _is_placed(actor: ActorHandle) -> bool:
    """Return whether Ray has found a process for an actor; it has a port then."""
    known = state.actors(actor._actor_id.hex())
    return bool(known) and known["Address"]["Port"] != 0


def reason_of(error: RayError) -> str:
    """Return the first line of an error of Ray, or the last one of an actor's own.

    Other lines of Ray's errors are details of its search.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    own = isinstance(error, RayTaskError) or getattr(error, "actor_init_failed", False)
    return lines[-1 if own else 0]
