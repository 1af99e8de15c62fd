"""A circuit breaker: how long an actor that fails again and again rests before it is started anew, and when it is out.

An actor that is out goes on trying, seldom: what ails its machine may pass. It is back when it has answered once.
Knows nothing of Ray.
"""

from dataclasses import dataclass

FAILURES = 5
"""So many in a row are borne; with one more an actor is out."""

REST_S = 1.0
"""Rest after the second failure in a row, in seconds; it doubles with every further one. After the first is none."""

LONGEST_REST_S = 60.0


@dataclass(kw_only=True, slots=True)
class Breaker:
    """Of one actor; `failures` are those in a row."""

    failures: int = 0

    @property
    def is_out(self) -> bool:
        """Whether nobody should count on the actor."""
        return self.failures > FAILURES

    def fail(self) -> float:
        """Counts a failure: a death, a missed deadline, a start that came to nothing.

        Returns:
            How long to rest before the next start, in seconds.
        """
        self.failures += 1
        return 0.0 if self.failures == 1 else min(LONGEST_REST_S, REST_S * 2 ** (self.failures - 2))

    def answer(self) -> None:
        """Counts an answer: the actor works."""
        self.failures = 0
