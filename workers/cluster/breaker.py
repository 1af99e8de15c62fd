"""A circuit breaker: rests of an actor that fails again and again.

An actor that is out continues to be tried, seldom, as the trouble of its machine may pass. It is back when it has
answered once. Knows nothing of Ray.
"""

from dataclasses import dataclass

FAILURES = 5
"""Largest number of failures in a row before an actor is out."""

REST_S = 1.0
"""Rest after the second failure in a row, in seconds.

It doubles with every further failure. There is no rest after the first one.
"""

LONGEST_REST_S = 60.0


@dataclass(kw_only=True, slots=True)
class Breaker:
    """Breaker of one actor; `failures` counts those in a row."""

    failures: int = 0

    @property
    def is_out(self) -> bool:
        """Whether the actor cannot be counted on."""
        return self.failures > FAILURES

    def fail(self) -> float:
        """Record a failure: a death, a missed deadline or a failed start.

        Returns:
            Rest before the next start, in seconds.
        """
        self.failures += 1
        return 0.0 if self.failures == 1 else min(LONGEST_REST_S, REST_S * 2 ** (self.failures - 2))

    def answer(self) -> None:
        """Record an answer, which resets the failures."""
        self.failures = 0
