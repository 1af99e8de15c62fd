"""Dispatch of requests to scoring actors, with deadlines and retries.

One call is in flight per actor. `run` returns results in the order of the requests, whatever the actors' number and
speed. `stream` lets its caller decide what an idle actor does next, and yields results as they come: no actor waits
for another one. An actor's failure is not a candidate's fault, unless it is proven (`cluster.retries`). Actors come
and go (`cluster.crew`), but only between requests.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError, RayTaskError

from ranksieve.search.errors import CancelledError, InfrastructureError, RanksieveError, ScoringError
from ranksieve.workers.cluster.crew import LOST, Crew, reason_of
from ranksieve.workers.cluster.packing import Place
from ranksieve.workers.cluster.retries import Attempt
from ranksieve.workers.cluster.shares import Share
from ranksieve.workers.machine.devices import LESS_MEMORY, accelerator_fault, lack_of_memory
from ranksieve.workers.types.scores import ScoreRequest

POLL_S = 0.2

Key = TypeVar("Key")


@dataclass(kw_only=True, slots=True)
class _Call:
    """An attempt in flight on an actor, with its deadline."""

    attempt: Attempt
    actor: int
    deadline: float


@dataclass(kw_only=True, slots=True)
class _Work:
    """State of one `stream`: calls in flight, attempts to retry, idle actors."""

    idle: deque[int]
    in_flight: dict[Any, _Call] = field(default_factory=dict)
    again: list[Attempt] = field(default_factory=list)


class Dispatcher:
    """Dispatcher that owns the scoring actors of one job.

    Args:
        start_actor: Function that starts an actor at a place.
        share: The job's share of the cluster, which limits the number of actors.
        timeout_s: Deadline of one request, in seconds.
        cancelled: Set when the job must end; checked every 0.2 s.
        on_replaced: Called with (actor number, reason) when an actor is replaced.
    """

    def __init__(
        self,
        start_actor: Callable[[Place], ActorHandle],
        share: Share,
        *,
        timeout_s: float,
        cancelled: threading.Event,
        on_replaced: Callable[[int, str], None],
    ) -> None:
        self._crew = Crew(start_actor, share, cancelled, on_replaced)
        self._timeout_s = timeout_s
        self._cancelled = cancelled

    def set_beliefs(self, beliefs: Any) -> None:
        """Give every present and later actor the dense model's beliefs."""
        self._crew.set_beliefs(beliefs)

    def run(
        self,
        method: str,
        requests: Sequence[ScoreRequest],
        on_done: Callable[[int], None] = lambda done: None,
    ) -> list[Any]:
        """Run one actor method on every request.

        Args:
            method: `score` or `score_dense`.
            requests: Requests; expensive ones are started first.
            on_done: Called with the number of finished requests.

        Returns:
            Results of the method, in the order of the requests. A request that killed its actor or missed its
            deadline every time is a `Failure` if the dense model succeeds in its place; not so for `score_dense`.

        Raises:
            CancelledError: `cancelled` was set; all actors are killed.
            NoRoomError: The nodes that had room have gone.
            InfrastructureError: All actors keep failing on any request.
            ScoringError: The method raised.
        """
        waiting = deque(sorted(range(len(requests)), key=lambda index: -_expected_cost(requests[index])))
        results: dict[int, Any] = {}

        def take(idle: int) -> list[tuple[int, ScoreRequest]]:
            taken = [waiting.popleft() for _ in range(min(idle, len(waiting)))]
            return [(index, requests[index]) for index in taken]

        for index, result in self.stream(method, take):
            results[index] = result
            on_done(len(results))
        return [results[index] for index in range(len(requests))]

    def stream(
        self, method: str, take: Callable[[int], Iterable[tuple[Key, ScoreRequest]]]
    ) -> Iterator[tuple[Key, Any]]:
        """Run one actor method on requests that are made while others run.

        Args:
            method: As for `run`.
            take: Function of the number of idle actors that returns at most as many requests, each with a key for its
                result. It is called again after every result.

        Yields:
            The key and the result of the method, or a `Failure` as in `run`, in the order of completion. Ends when
            nothing runs and `take` returns nothing.

        Raises:
            CancelledError: `cancelled` was set; all actors are killed.
            NoRoomError: The nodes that had room have gone.
            InfrastructureError: All actors keep failing on any request.
            ScoringError: The method raised.
        """
        work = _Work(idle=deque(self._crew.up()))
        while True:
            if self._cancelled.is_set():
                self.close()
                raise CancelledError("the job was cancelled")
            self._crew.resize(work.idle)
            self._try_again(work)
            if work.idle:
                for key, request in take(len(work.idle)):
                    self._start(work, Attempt(key=key, method=method, request=request), work.idle[0])
            if work.idle and not work.in_flight and not work.again:
                return
            yield from self._next_result(work)

    def close(self) -> None:
        """Kill every actor."""
        self._crew.close()

    def _try_again(self, work: _Work) -> None:
        """Give idle actors the requests that others failed on."""
        up = self._crew.up()
        for attempt in list(work.again):
            if (number := attempt.choose(work.idle, up)) is not None:
                work.again.remove(attempt)
                self._start(work, attempt, number)

    def _start(self, work: _Work, attempt: Attempt, number: int) -> None:
        work.idle.remove(number)
        method, request = attempt.call()
        reference = getattr(self._crew[number], method).remote(request)
        deadline = time.monotonic() + self._timeout_s
        work.in_flight[reference] = _Call(attempt=attempt, actor=number, deadline=deadline)

    def _next_result(self, work: _Work) -> Iterator[tuple[Any, Any]]:
        """Wait until an actor has finished or started, or for `POLL_S`.

        Yields the result of a finished actor.
        """
        self._miss_deadlines(work)
        self._crew.replace_late()
        starting = self._crew.starting()
        if not work.in_flight and not starting:  # all actors rest
            self._cancelled.wait(POLL_S)
            return
        ready, _ = ray.wait([*work.in_flight, *starting], num_returns=1, timeout=POLL_S)
        if not ready:
            return
        if ready[0] not in starting:
            yield from self._finish(work, ready[0])
        elif self._crew.joins(starting[ready[0]]):
            work.idle.append(starting[ready[0]])

    def _miss_deadlines(self, work: _Work) -> None:
        """Retry calls that are late and have no answer yet.

        This happens also while other actors answer without a pause.
        """
        now = time.monotonic()
        late = [reference for reference, call in work.in_flight.items() if call.deadline < now]
        _, missing = ray.wait(late, num_returns=len(late), timeout=0) if late else ([], [])
        for reference in missing:
            self._retry(work, work.in_flight.pop(reference), f"missed its deadline of {self._timeout_s:g} s")

    def _finish(self, work: _Work, reference: Any) -> Iterator[tuple[Any, Any]]:
        """Yield one result and mark its actor idle, or retry the request."""
        call = work.in_flight.pop(reference)
        try:
            result = ray.get(reference)
        except LOST as error:
            self._retry(work, call, f"died: {reason_of(error)}")
            return
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, RanksieveError | OSError):
                raise cause from error
            if (fault := accelerator_fault(cause)) is not None:
                self._retry(work, call, fault)
                return
            if (lack := lack_of_memory(cause)) is not None:  # for a candidate it would be a `Failure`
                raise InfrastructureError(f"scoring the dense model ran {lack}; {LESS_MEMORY}") from error
            raise ScoringError(f"scoring raised {type(cause).__name__}: {cause}") from error
        except RayError as error:
            raise InfrastructureError(f"Ray failed: {reason_of(error)}") from error
        self._crew.answered(call.actor)
        work.idle.append(call.actor)
        yield call.attempt.key, call.attempt.outcome(result)

    def _retry(self, work: _Work, call: _Call, reason: str) -> None:
        self._crew.replace(call.actor, reason)
        call.attempt.fail(call.actor, reason)
        work.again.append(call.attempt)


def _expected_cost(request: ScoreRequest) -> int:
    """Return a number that grows with the work; dense counts as the largest rank."""
    return request.examples * sum(rank if rank >= 0 else 10_000 for rank in request.ranks)
