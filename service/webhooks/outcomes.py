"""What came of an attempt to deliver, and how long to wait for the next one."""

from dataclasses import dataclass
from http import HTTPStatus
from random import Random
from typing import Self

ATTEMPTS = 12
"""So many attempts in vain are enough: the last comes about 32 hours after the first."""

FIRST_WAIT_S, GROWTH, LONGEST_WAIT_S = 5.0, 4.0, 6 * 3600.0
"""Waits between attempts, in seconds: 5, 20, 80 and so on, six hours at most."""

JITTER = 0.2
"""Waits are longer or shorter by up to this share, so that what failed together does not come back together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What came of one attempt. `error` is None where it arrived."""

    status: int | None = None
    error: str | None = None

    @classmethod
    def answered(cls, status: int) -> Self:
        """The URL answered."""
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
    """Seconds between an attempt in vain and the next one; None after the last.

    Args:
        attempt: Number of the one in vain, from 1.
        rng: Spreads the waits.
    """
    if attempt >= ATTEMPTS:
        return None
    wait = min(FIRST_WAIT_S * GROWTH ** (attempt - 1), LONGEST_WAIT_S)
    return wait * rng.uniform(1 - JITTER, 1 + JITTER)
