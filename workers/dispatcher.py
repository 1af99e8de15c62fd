"""Sends score requests to actors: one call in flight per actor, deadlines, replacement of dead actors.

Results come back in the order of the requests whatever the actors' number and speed, so that a search is a
function of its seed alone. An actor's death is not a candidate's fault, unless it happens every time.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from search.errors import CancelledError, InfrastructureError, RanksieveError, ScoringError
from workers.scores import Failure, Request

logger = logging.getLogger(__name__)

POLL_S = 0.2
ATTEMPTS = 3
MAX_REPLACEMENTS_IN_A_ROW = 5


@dataclass(kw_only=True, slots=True)
class _Call:
    index: int
    actor: int
    deadline: float


@dataclass(kw_only=True, slots=True)
class _Work:
    """One `run`: what waits, what is in flight, what is done."""

    method: str
    requests: Sequence[Request]
    timeout_s: float
    waiting: deque[int]
    in_flight: dict[Any, _Call] = field(default_factory=dict)
    results: dict[int, Any] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)


class Dispatcher:
    """Owns the scoring actors of one job.

    Args:
        start_actor: Starts an actor; called again for each replacement.
        size: Number of actors.
        timeout_s: Deadline of one request.
        cancelled: Set when the job has to end; checked every 0.2 s.
        on_replaced: Told (actor number, reason) when an actor is replaced.
    """

    def __init__(
        self,
        start_actor: Callable[[], ActorHandle],
        size: int,
        *,
        timeout_s: float,
        cancelled: threading.Event,
        on_replaced: Callable[[int, str], None],
    ) -> None:
        self._start_actor = start_actor
        self._timeout_s = timeout_s
        self._cancelled = cancelled
        self._on_replaced = on_replaced
        self._beliefs: Any = None
        self._failures_in_a_row = 0
        self._actors = [start_actor() for _ in range(size)]

    def set_beliefs(self, beliefs: Any) -> None:
        """Gives every actor, and every later replacement, the dense model's beliefs."""
        self._beliefs = ray.put(beliefs)
        for actor in self._actors:
            actor.set_beliefs.remote(self._beliefs)

    def run(
        self,
        method: str,
        requests: Sequence[Request],
        on_done: Callable[[int], None] = lambda done: None,
        timeouts: float = 1.0,
    ) -> list[Any]:
        """Runs one actor method on every request.

        Args:
            method: `score`, `score_dense` or `refit`.
            requests: Expensive ones are started first.
            on_done: Told how many requests are done.
            timeouts: A request's deadline, as a multiple of the dispatcher's.

        Returns:
            What the method returned, in the order of the requests; a request that killed its actor or missed
            its deadline every time is a `Failure`.

        Raises:
            CancelledError: `cancelled` was set; nothing is left running.
            InfrastructureError: Actors keep dying whatever they are given.
            ScoringError: The method raised.
        """
        order = sorted(range(len(requests)), key=lambda index: -_expected_cost(requests[index]))
        work = _Work(
            method=method,
            requests=requests,
            timeout_s=timeouts * self._timeout_s,
            waiting=deque(order),
        )
        idle = deque(range(len(self._actors)))
        while len(work.results) < len(requests):
            if self._cancelled.is_set():
                self.close()
                raise CancelledError("the job was cancelled")
            while idle and work.waiting:
                self._start(work, idle.popleft())
            ready, _ = ray.wait(list(work.in_flight), num_returns=1, timeout=POLL_S)
            for reference in ready or self._overdue(work):
                idle.append(self._finish(work, reference, overdue=not ready))
                on_done(len(work.results))
        return [work.results[index] for index in range(len(requests))]

    def close(self) -> None:
        """Kills every actor."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def _start(self, work: _Work, actor: int) -> None:
        index = work.waiting.popleft()
        reference = getattr(self._actors[actor], work.method).remote(work.requests[index])
        deadline = time.monotonic() + work.timeout_s
        work.in_flight[reference] = _Call(index=index, actor=actor, deadline=deadline)

    def _overdue(self, work: _Work) -> list[Any]:
        now = time.monotonic()
        return [reference for reference, call in work.in_flight.items() if call.deadline < now][:1]

    def _finish(self, work: _Work, reference: Any, *, overdue: bool) -> int:
        """Takes one result, or what stands in its place; returns the actor, which is idle again."""
        call = work.in_flight.pop(reference)
        if overdue:
            self._retry(work, call, f"missed its deadline of {work.timeout_s:g} s")
            return call.actor
        try:
            work.results[call.index] = ray.get(reference)
            self._failures_in_a_row = 0
        except RayActorError as error:
            self._retry(work, call, f"died: {_first_line(error)}")
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, RanksieveError):
                raise cause from error
            raise ScoringError(f"scoring raised {type(cause).__name__}: {cause}") from error
        return call.actor

    def _retry(self, work: _Work, call: _Call, reason: str) -> None:
        self._replace(call.actor, reason)
        attempts = work.attempts.get(call.index, 0) + 1
        work.attempts[call.index] = attempts
        if attempts < ATTEMPTS:
            work.waiting.appendleft(call.index)
        else:
            work.results[call.index] = Failure(reason=f"{attempts} actors in a row: the actor {reason}")

    def _replace(self, actor: int, reason: str) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row > MAX_REPLACEMENTS_IN_A_ROW:
            raise InfrastructureError(
                f"{self._failures_in_a_row} actors failed one after another, the last one {reason}; "
                "check the memory and the logs of the machine"
            )
        logger.warning("actor %d %s; it is replaced", actor, reason)
        ray.kill(self._actors[actor])
        self._actors[actor] = self._start_actor()
        if self._beliefs is not None:
            self._actors[actor].set_beliefs.remote(self._beliefs)
        self._on_replaced(actor, reason)


def _expected_cost(request: Request) -> int:
    """Grows with the work; ranks below zero are dense, which costs more than any rank."""
    return request.examples * sum(rank if rank >= 0 else 10_000 for rank in request.ranks)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
