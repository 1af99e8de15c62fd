"""Webhooks and deliveries as the service keeps them.

    pending → delivered     the URL answered 2xx
    pending → failed        tried often enough, or gone; `error` says why

Knows nothing of SQL, threads or HTTP.
"""

import secrets
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from ranksieve.service.job.job import JobState

ENDS = tuple(state for state in JobState if state.ended)
"""States that a webhook is notified of by default."""

TEST = "webhook.test"
"""Type of the test event."""


class DeliveryState(StrEnum):
    """State of a delivery."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """An owner's URL and the states it is notified of, without its secret.

    Times are UTC.
    """

    id: str
    owner: str
    url: str = field(repr=False)  # may hold a token, and repr is for logs
    states: tuple[JobState, ...]
    enabled: bool
    disabled_reason: str | None
    """Reason why the service disabled it; None if it did not."""
    created_at: datetime
    delivered_at: datetime | None
    """Time of the last successful delivery."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """One event on its way to one webhook; times are UTC.

    `id` is the same at every attempt. `status` is that of the last answer, `error` describes the failure of the last
    attempt.
    """

    id: str
    type: str
    job_id: str | None
    state: DeliveryState
    attempts: int
    created_at: datetime
    due_at: datetime | None
    """Time of the next attempt; None once it is over."""
    finished_at: datetime | None
    status: int | None
    error: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sending:
    """Delivery claimed by a server for one attempt, with all it needs."""

    id: str
    webhook_id: str
    type: str
    payload: str = field(repr=False)
    url: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    """Secrets to sign with; two while a rotated secret is still valid."""
    attempt: int
    """Number of the attempt, from 1."""


def new_secret() -> str:
    """Return a new random secret to sign with: 256 bits, in the standard form."""
    return f"whsec_{b64encode(secrets.token_bytes(32)).decode()}"
