"""Retries of one request on several actors, and the blame for its failures.

Knows nothing of Ray. An actor fails when it dies, loses its accelerator or misses a deadline. The fault may be its
own, its machine's or the candidate's. A candidate that an actor failed on goes to another one. Three failures make it
suspect. Then the dense model is scored in its place, on the same examples, by an actor that failed on it. If that
succeeds, the candidate is to blame. If not, the machine is, and the candidate is tried again.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ranksieve.search.space.matrix import DENSE
from ranksieve.workers.types.scores import Failure, ScoreRequest

SUSPECT = 3
"""Number of failed actors after which a request's candidate is suspected."""

DENSE_METHOD = "score_dense"
"""Method without a candidate to suspect."""


@dataclass(kw_only=True, slots=True, eq=False)
class Attempt:
    """A request and its failures so far.

    `key`: the sender's name for it. `failures`: number of actors' failures on it. `met`: the actors that failed.
    `blame`: the candidate's failure if the dense model succeeds in its place.
    """

    key: Any
    method: str
    request: ScoreRequest
    failures: int = 0
    met: set[int] = field(default_factory=set)
    blame: str | None = None

    def choose(self, idle: Sequence[int], up: Collection[int]) -> int | None:
        """Return the actor to go to next, or None to wait for one.

        Args:
            idle: Idle actors, in the order in which they should get work.
            up: Actors that have started, idle ones included.
        """
        met = [actor for actor in idle if actor in self.met]
        others = [actor for actor in idle if actor not in self.met]
        anew = self.blame is None and not set(up) <= self.met
        fitting = others if anew else met or others
        if not fitting:
            return None
        if fitting[0] not in self.met:
            self.blame = None  # another actor shows more than the dense model on it would
        return fitting[0]

    def call(self) -> tuple[str, ScoreRequest]:
        """Return the method to run next, and its request."""
        return (self.method, self.request) if self.blame is None else ("score", self._dense_like())

    def fail(self, actor: int, reason: str) -> None:
        """Record that an actor failed on `call`, for a `reason`."""
        self.met.add(actor)
        if self.blame is not None:
            self.blame, self.failures = None, 0
            return
        self.failures += 1
        if self.failures >= SUSPECT and self.method != DENSE_METHOD:
            self.blame = f"{self.failures} actors in a row: the actor {reason}"

    def outcome(self, result: Any) -> Any:
        """Return what to send back for an actor's answer to `call`."""
        return result if self.blame is None else Failure(reason=self.blame)

    def _dense_like(self) -> ScoreRequest:
        """Return a request for the dense model on the same examples."""
        return replace(self.request, ranks=(DENSE,) * len(self.request.ranks))
