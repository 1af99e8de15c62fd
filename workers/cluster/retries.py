"""One request's way from actor to actor, and whose fault it is when they fail on it. Knows nothing of Ray.

Where an actor fails - dies, loses its accelerator, or misses a deadline - it may be its own fault, its machine's, or
the candidate's. A candidate that an actor failed on is given to another one. Three failures make it suspect: then the
dense model is scored in its place, on the same examples, by an actor that failed on it. Where that goes well it was
the candidate; where it does not it was the machine, and the candidate is tried again.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from ranksieve.search.space.matrix import DENSE
from ranksieve.workers.types.scores import Failure, RefitRequest, Request, ScoreRequest

SUSPECT = 3
"""So many actors may fail on a request before its candidate is suspected."""

DENSE_METHOD = "score_dense"
"""The method that has no candidate to suspect."""


@dataclass(kw_only=True, slots=True, eq=False)
class Attempt:
    """A request and what has become of it so far.

    `key`: what its sender knows it by. `failures`: of actors at work on it. `met`: which actors they were. `blame`:
    what its candidate fails for if the dense model does no harm in its place.
    """

    key: Any
    method: str
    request: Request
    failures: int = 0
    met: set[int] = field(default_factory=set)
    blame: str | None = None

    def choose(self, idle: Sequence[int], up: Collection[int]) -> int | None:
        """The actor to go to next, or None to wait for one.

        Args:
            idle: Those with nothing to do, in the order they should be given work.
            up: Those that have started, the idle ones among them.
        """
        met = [actor for actor in idle if actor in self.met]
        others = [actor for actor in idle if actor not in self.met]
        anew = self.blame is None and not set(up) <= self.met
        fitting = others if anew else met or others
        if not fitting:
            return None
        if fitting[0] not in self.met:
            self.blame = None  # what happens on another actor tells more than the dense model on it would
        return fitting[0]

    def call(self) -> tuple[str, Request]:
        """The method to run next, and on what."""
        return (self.method, self.request) if self.blame is None else ("score", self._dense_like())

    def fail(self, actor: int, reason: str) -> None:
        """Counts that an actor failed on what `call` said; `reason` is what it did."""
        self.met.add(actor)
        if self.blame is not None:
            self.blame, self.failures = None, 0
            return
        self.failures += 1
        if self.failures >= SUSPECT and self.method != DENSE_METHOD:
            self.blame = f"{self.failures} actors in a row: the actor {reason}"

    def outcome(self, result: Any) -> Any:
        """What to tell the sender, now that an actor has answered what `call` said."""
        return result if self.blame is None else Failure(reason=self.blame)

    def _dense_like(self) -> ScoreRequest:
        """The dense model on the same examples: as much work, and scored before."""
        request, ranks = self.request, (DENSE,) * len(self.request.ranks)
        if isinstance(request, RefitRequest):
            return ScoreRequest(ranks=ranks, split="calibration", start=0, stop=request.examples)
        split = request.split if isinstance(request, ScoreRequest) else "calibration"
        return ScoreRequest(ranks=ranks, split=split, start=request.start, stop=request.stop)
