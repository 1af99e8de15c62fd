"""The scoring actors of one job, within its share of the cluster.

More actors are started as soon as the job may have them. When it has too many, those end that rest, have not started
yet or are idle; working actors finish their work. Actors that die are replaced. An actor that fails again and again
rests, longer every time (`workers.cluster.breaker`), and others do its work.
"""

import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
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
from ranksieve.workers.cluster.shares import Share

logger = logging.getLogger(__name__)

START_S = 1800.0
"""Longest time that an actor may take to start and load the model, in seconds.

It is given no request before.
"""

LOST = (RayActorError, OutOfMemoryError, ObjectLostError, NodeDiedError)
"""Errors of Ray for an actor or an answer lost with its process or node."""


@dataclass(kw_only=True, slots=True)
class _Actor:
    """An actor that is starting, up or resting.

    `started` is answered once the actor is ready, before `deadline`. `rests_until` is the end of its rest.
    """

    handle: ActorHandle
    started: Any
    deadline: float
    is_up: bool = False
    rests_until: float | None = None


@dataclass(kw_only=True, slots=True)
class _Place:
    """An actor and its circuit breaker, which stays when the actor is replaced."""

    actor: _Actor
    breaker: Breaker = field(default_factory=Breaker)


class Crew:
    """The actors of one job, by number.

    Args:
        start_actor: Function that starts an actor.
        share: The job's share of the cluster; the job already holds one actor.
        on_replaced: Called with (actor number, reason) when an actor is replaced.
    """

    def __init__(
        self, start_actor: Callable[[], ActorHandle], share: Share, on_replaced: Callable[[int, str], None]
    ) -> None:
        self._start_actor = start_actor
        self._share = share
        self._on_replaced = on_replaced
        self._beliefs: Any = None
        self._numbers = itertools.count()
        self._places: dict[int, _Place] = {}
        share.use(math.inf)
        self._add()
        self._add_allowed()

    def __getitem__(self, number: int) -> ActorHandle:
        return self._places[number].actor.handle

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
        for place in self._places.values():
            if place.actor.rests_until is None:
                place.actor = self._readied(place.actor.handle)

    def resize(self, idle: deque[int]) -> None:
        """Start and end actors to fit the share.

        Args:
            idle: Numbers of idle actors; those that end are removed from it.

        Raises:
            NoRoomError: The nodes that had room for an actor have gone.
        """
        self._share.require_room()
        for _ in range(self._share.excess):
            if (number := self._dispensable(idle)) is None:
                break  # called again when the next one has finished
            ray.kill(self._places.pop(number).actor.handle)
            self._share.give_back()
        self._add_allowed()
        now = time.monotonic()
        for place in self._places.values():
            if place.actor.rests_until is not None and place.actor.rests_until <= now:
                place.actor = self._started()

    def joins(self, number: int) -> bool:
        """Return whether an actor that Ray has answered for is up.

        It is replaced if it failed instead.
        """
        actor = self._places[number].actor
        try:
            ray.get(actor.started)
        except RayError as error:
            self.replace(number, f"failed before its work: {reason_of(error)}")
        else:
            actor.is_up = True
        return actor.is_up

    def answered(self, number: int) -> None:
        """Record that an actor has finished its work."""
        self._places[number].breaker.answer()

    def replace_late(self) -> None:
        """Replace actors that take too long to start."""
        now = time.monotonic()
        for number in self.starting().values():
            if self._places[number].actor.deadline < now:
                self.replace(number, f"did not start within {START_S:g} s")

    def replace(self, number: int, reason: str) -> None:
        """End an actor and start another in its place, at once or after a rest.

        Raises:
            InfrastructureError: All actors keep failing.
        """
        place = self._places[number]
        rest_s = place.breaker.fail()
        if all(place.breaker.is_out for place in self._places.values()):
            raise InfrastructureError(
                f"all actors failed more than {FAILURES} times in a row, the last one {reason}; "
                "check the memory and the logs of the machine"
            )
        logger.warning("actor %d %s; replacing it in %g s", number, reason, rest_s)
        ray.kill(place.actor.handle)
        place.actor.is_up, place.actor.rests_until = False, time.monotonic() + rest_s
        self._on_replaced(number, reason)

    def close(self) -> None:
        """Kill every actor."""
        for _, actor in self._actors():
            ray.kill(actor.handle)
        self._places = {}
        self._share.rest()

    def _actors(self) -> Iterator[tuple[int, _Actor]]:
        return ((number, place.actor) for number, place in self._places.items())

    def _dispensable(self, idle: deque[int]) -> int | None:
        """Return the actor to end first, or None if all are working.

        An idle one is removed from `idle`.
        """
        resting = [number for number, actor in self._actors() if actor.rests_until is not None]
        unused = [*self.starting().values(), *resting]
        if unused:
            return unused[-1]
        return idle.pop() if idle else None

    def _add_allowed(self) -> None:
        while self._share.take():
            self._add()

    def _add(self) -> None:
        self._places[next(self._numbers)] = _Place(actor=self._started())

    def _started(self) -> _Actor:
        return self._readied(self._start_actor())

    def _readied(self, handle: ActorHandle) -> _Actor:
        ready = handle.pid.remote() if self._beliefs is None else handle.set_beliefs.remote(self._beliefs)
        return _Actor(handle=handle, started=ready, deadline=time.monotonic() + START_S)


def reason_of(error: RayError) -> str:
    """Return the first line of an error of Ray, or the last one of an actor's own.

    Other lines of Ray's errors are details of its search.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    own = isinstance(error, RayTaskError) or getattr(error, "actor_init_failed", False)
    return lines[-1 if own else 0]
