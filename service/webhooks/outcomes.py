"""Outcome of an attempt to deliver, and the wait before the next one."""

from dataclasses import dataclass
from http import HTTPStatus
from random import Random
from typing import Self

ATTEMPTS = 12
"""Failed attempts before giving up; the last is about 32 hours after the first."""

FIRST_WAIT_S, GROWTH, LONGEST_WAIT_S = 5.0, 4.0, 6 * 3600.0
"""First wait in seconds, its growth, and the longest: 5, 20, 80, … 6 hours."""

JITTER = 0.2
"""Random share added to or taken from waits, to spread simultaneous failures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """Outcome of one attempt; `error` is None if it arrived."""

    status: int | None = None
    error: str | None = None

    @classmethod
    def answered(cls, status: int) -> Self:
        """Return the outcome of an answer with this status."""
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return cls(status=status)
        if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            return cls(status=status, error=f"answered {status}; redirects are not followed")
        return cls(status=status, error=f"answered {status}")

    @property
    def gone(self) -> bool:
        """Whether the URL wants no more deliveries at all."""
        return self.status == HTTPStatus.GONE


def wait_s(attempt: int, rng: Random) -> float | None:
    """Return the seconds between a failed attempt and the next; None: no more.

    Args:
        attempt: Number of the failed attempt, from 1.
        rng: Spreads the waits.
    """
    if attempt >= ATTEMPTS:
        return None
    wait = min(FIRST_WAIT_S * GROWTH ** (attempt - 1), LONGEST_WAIT_S)
    return wait * rng.uniform(1 - JITTER, 1 + JITTER)
