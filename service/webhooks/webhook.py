"""A webhook and its deliveries as the service keeps them.

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
"""The states that a webhook is told of, where nothing else is asked."""

TEST = "webhook.test"
"""Type of the event that a user asks for, to see whether it arrives."""


class DeliveryState(StrEnum):
    """Where a delivery is on its way."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """An owner's URL and the states of jobs that it is told of, without its secret. Times are UTC."""

    id: str
    owner: str
    url: str = field(repr=False)  # may hold a token, and repr is for logs
    states: tuple[JobState, ...]
    enabled: bool
    disabled_reason: str | None
    """Why the service disabled it; None where it did not."""
    created_at: datetime
    delivered_at: datetime | None
    """When a delivery last arrived."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """One event on its way to one webhook; `id` is the same at every attempt. Times are UTC.

    `status` is that of the last answer, `error` what was wrong with the last attempt.
    """

    id: str
    type: str
    job_id: str | None
    state: DeliveryState
    attempts: int
    created_at: datetime
    due_at: datetime | None
    """When it is next tried; None once it is over."""
    finished_at: datetime | None
    status: int | None
    error: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sending:
    """A delivery that a server has claimed, for one attempt, and all that it takes."""

    id: str
    webhook_id: str
    type: str
    payload: str = field(repr=False)
    url: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    """What to sign with; two while a rotated secret is still good."""
    attempt: int
    """Counts from 1."""


def new_secret() -> str:
    """A secret to sign with that was never given out before: 256 bits of chance, as the standard writes them."""
    return f"whsec_{b64encode(secrets.token_bytes(32)).decode()}"
