"""Sends score requests to actors: one call in flight per actor, deadlines, replacement of dead actors.

`run` returns results in the order of the requests, whatever the actors' number and speed. `stream` lets its caller
decide what an idle actor does next, and yields results as they come: no actor waits for another one. An actor's death
is not a candidate's fault, unless it happens every time.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError, RayTaskError

from search.errors import CancelledError, InfrastructureError, RanksieveError, ScoringError
from workers.scores import Failure, Request

logger = logging.getLogger(__name__)

POLL_S = 0.2

START_S = 1800.0
"""Longest that an actor may take to start, which is to load the model; no request's deadline runs meanwhile."""

ATTEMPTS = 3
MAX_REPLACEMENTS_IN_A_ROW = 5


Key = TypeVar("Key")


@dataclass(kw_only=True, slots=True)
class _Call:
    key: Any
    request: Request
    actor: int
    deadline: float
    attempt: int


@dataclass(kw_only=True, slots=True)
class _Actor:
    """An actor, and what is answered once it has started."""

    handle: ActorHandle
    started: Any
    is_up: bool = False


@dataclass(kw_only=True, slots=True)
class _Work:
    """One `stream`: what is in flight, and who has nothing to do."""

    method: str
    timeout_s: float
    idle: deque[int]
    in_flight: dict[Any, _Call] = field(default_factory=dict)


class Dispatcher:
    """Owns the scoring actors of one job.

    Args:
        start_actor: Starts an actor; called again for each replacement.
        size: Number of actors.
        timeout_s: Deadline of one request, from when its actor has started.
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
        self._actors = [self._new_actor() for _ in range(size)]

    def set_beliefs(self, beliefs: Any) -> None:
        """Gives every actor, and every later replacement, the dense model's beliefs."""
        self._beliefs = ray.put(beliefs)
        for actor in self._actors:
            actor.handle.set_beliefs.remote(self._beliefs)

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
            OSError: The method could not read or write.
        """
        waiting = deque(sorted(range(len(requests)), key=lambda index: -_expected_cost(requests[index])))
        results: dict[int, Any] = {}

        def take(idle: int) -> list[tuple[int, Request]]:
            taken = [waiting.popleft() for _ in range(min(idle, len(waiting)))]
            return [(index, requests[index]) for index in taken]

        for index, result in self.stream(method, take, timeouts):
            results[index] = result
            on_done(len(results))
        return [results[index] for index in range(len(requests))]

    def stream(
        self, method: str, take: Callable[[int], Iterable[tuple[Key, Request]]], timeouts: float = 1.0
    ) -> Iterator[tuple[Key, Any]]:
        """Runs one actor method on requests that are thought of while others run.

        Args:
            method: As for `run`.
            take: Given how many actors are idle, returns as many requests or fewer, each with a key to know its result
                by. It is asked again after every result.
            timeouts: As for `run`.

        Yields:
            The key and what the method returned, or a `Failure` as in `run`, in the order in which they are done. Ends
            when nothing runs and `take` has nothing.

        Raises:
            CancelledError: `cancelled` was set; nothing is left running.
            InfrastructureError: Actors keep dying whatever they are given.
            ScoringError: The method raised.
        """
        work = _Work(
            method=method, timeout_s=timeouts * self._timeout_s, idle=deque(range(len(self._actors)))
        )
        while True:
            if self._cancelled.is_set():
                self.close()
                raise CancelledError("the job was cancelled")
            if work.idle:
                for key, request in take(len(work.idle)):
                    self._start(work, work.idle.popleft(), key, request)
            if not work.in_flight:
                return
            ready, _ = ray.wait(list(work.in_flight), num_returns=1, timeout=POLL_S)
            for reference in ready or self._overdue(work):
                yield from self._finish(work, reference, overdue=not ready)

    def close(self) -> None:
        """Kills every actor."""
        for actor in self._actors:
            ray.kill(actor.handle)
        self._actors = []

    def _new_actor(self) -> _Actor:
        handle = self._start_actor()
        return _Actor(handle=handle, started=handle.pid.remote())

    def _start(self, work: _Work, actor: int, key: Any, request: Request, attempt: int = 1) -> None:
        reference = getattr(self._actors[actor].handle, work.method).remote(request)
        start_s = 0.0 if self._actors[actor].is_up else START_S
        deadline = time.monotonic() + start_s + work.timeout_s
        work.in_flight[reference] = _Call(
            key=key, request=request, actor=actor, deadline=deadline, attempt=attempt
        )

    def _overdue(self, work: _Work) -> list[Any]:
        now = time.monotonic()
        for call in work.in_flight.values():
            actor = self._actors[call.actor]
            if not actor.is_up and ray.wait([actor.started], timeout=0)[0]:
                actor.is_up = True
                call.deadline = now + work.timeout_s
        return [reference for reference, call in work.in_flight.items() if call.deadline < now][:1]

    def _finish(self, work: _Work, reference: Any, *, overdue: bool) -> Iterator[tuple[Any, Any]]:
        """Yields one result and sets its actor idle, or tries again with a new actor."""
        call = work.in_flight.pop(reference)
        if overdue:
            yield from self._retry(work, call, f"missed its deadline of {work.timeout_s:g} s")
            return
        try:
            result = ray.get(reference)
        except RayActorError as error:
            yield from self._retry(work, call, f"died: {_first_line(error)}")
            return
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, RanksieveError | OSError):
                raise cause from error
            raise ScoringError(f"scoring raised {type(cause).__name__}: {cause}") from error
        except RayError as error:
            raise InfrastructureError(f"Ray failed: {_first_line(error)}") from error
        self._failures_in_a_row = 0
        work.idle.append(call.actor)
        yield call.key, result

    def _retry(self, work: _Work, call: _Call, reason: str) -> Iterator[tuple[Any, Any]]:
        self._replace(call.actor, reason)
        if call.attempt < ATTEMPTS:
            self._start(work, call.actor, call.key, call.request, call.attempt + 1)
        else:
            work.idle.append(call.actor)
            yield call.key, Failure(reason=f"{call.attempt} actors in a row: the actor {reason}")

    def _replace(self, actor: int, reason: str) -> None:
        self._failures_in_a_row += 1
        if self._failures_in_a_row > MAX_REPLACEMENTS_IN_A_ROW:
            raise InfrastructureError(
                f"{self._failures_in_a_row} actors failed one after another, the last one {reason}; "
                "check the memory and the logs of the machine"
            )
        logger.warning("actor %d %s; it is replaced", actor, reason)
        ray.kill(self._actors[actor].handle)
        self._actors[actor] = self._new_actor()
        if self._beliefs is not None:
            self._actors[actor].handle.set_beliefs.remote(self._beliefs)
        self._on_replaced(actor, reason)


def _expected_cost(request: Request) -> int:
    """Grows with the work; ranks below zero are dense, which costs more than any rank."""
    return request.examples * sum(rank if rank >= 0 else 10_000 for rank in request.ranks)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
