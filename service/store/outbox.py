"""Deliveries to webhooks, written in the transaction of their events.

A webhook and all its deliveries are leased to one server for an attempt, so no URL is sent to twice at once, and the
webhooks take turns. A server that falls silent during an attempt loses the lease, and the delivery is attempted again
under the same id.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from sqlalchemy import case, delete, func, or_, select
from sqlalchemy.orm import Session

from ranksieve.service.job.ids import new_id
from ranksieve.service.job.job import JobState
from ranksieve.service.store.base import Base
from ranksieve.service.store.schema import DeliveryRow, WebhookRow
from ranksieve.service.store.times import database_time
from ranksieve.service.webhooks.messages import Message
from ranksieve.service.webhooks.outcomes import ATTEMPTS, Outcome
from ranksieve.service.webhooks.webhook import DeliveryState, Sending

GONE = "the URL answered 410 Gone"
DEAD = f"no delivery arrived while one was tried {ATTEMPTS} times"


class Outbox:
    """Deliveries of all owners, for the sender."""

    def __init__(self, base: Base) -> None:
        self._base = base

    def claim(self, lease_s: float) -> Sending | None:
        """Claim the next delivery to attempt.

        It is the one due longest, of the webhook that was sent to longest ago.

        Args:
            lease_s: Time that no other server sends to that webhook, in seconds, unless it is settled before.

        Returns:
            The delivery; None if nothing is due, or other servers have it.
        """
        with self._base.database.writing() as session:
            now = self._base.clock(session)
            free = or_(WebhookRow.busy_until.is_(None), WebhookRow.busy_until <= now)
            due = (
                select(DeliveryRow, WebhookRow)
                .join(WebhookRow)
                .where(DeliveryRow.due_at <= now, WebhookRow.enabled, free)
                .order_by(WebhookRow.busy_until.nulls_first(), DeliveryRow.due_at, DeliveryRow.id)
                .limit(1)
                # A transaction that adds a delivery locks the webhook's key only, which does not conflict.
                .with_for_update(skip_locked=True, key_share=True)
            )
            found = session.execute(due).first()
            if found is None:
                return None
            delivery, webhook = found
            webhook.busy_until = now + timedelta(seconds=lease_s)
            delivery.attempts += 1
            return Sending(
                id=delivery.id,
                webhook_id=webhook.id,
                type=delivery.type,
                payload=delivery.payload,
                url=webhook.url,
                secrets=_secrets(webhook, now),
                attempt=delivery.attempts,
            )

    def settle(self, sending: Sending, outcome: Outcome, retry_s: float | None) -> DeliveryState | None:
        """Save the outcome of an attempt, and release the webhook's lease.

        Args:
            sending: The claimed delivery.
            outcome: Outcome of the attempt.
            retry_s: Wait before the next attempt after a failure, in seconds; None: no further attempt.

        Returns:
            The new state of the delivery; None if another server has attempted it since, or it was deleted.
        """
        with self._base.database.writing() as session:
            webhook = session.get(WebhookRow, sending.webhook_id, with_for_update={"key_share": True})
            delivery = session.get(DeliveryRow, sending.id, with_for_update=True)
            if webhook is None or delivery is None or delivery.attempts != sending.attempt:
                return None
            now = self._base.clock(session)
            webhook.busy_until = now
            delivery.status, delivery.error = outcome.status, outcome.error
            if outcome.error is None:
                webhook.delivered_at = now
                _end(delivery, DeliveryState.DELIVERED, now)
            elif outcome.gone and webhook.url != sending.url:  # it leads elsewhere by now
                delivery.due_at = now
            elif retry_s is not None and not outcome.gone:
                delivery.due_at = now + timedelta(seconds=retry_s)
            else:
                _end(delivery, DeliveryState.FAILED, now)
                _disable_if_dead(webhook, delivery, outcome)
            return DeliveryState(delivery.state)

    def next_in_s(self) -> float | None:
        """Return the seconds until there may be something to claim, or None.

        The number is at most 0 if a delivery is due now; None means that nothing waits.
        """
        free_at = case(
            (WebhookRow.busy_until > DeliveryRow.due_at, WebhookRow.busy_until), else_=DeliveryRow.due_at
        )
        first = select(func.min(free_at)).select_from(DeliveryRow).join(WebhookRow)
        waiting = first.where(DeliveryRow.due_at.is_not(None), WebhookRow.enabled)
        with self._base.database.reading() as session:
            at = session.execute(waiting).scalar_one()
            return None if at is None else (at - self._base.clock(session)).total_seconds()

    def forget(self, older_than: timedelta) -> int:
        """Delete deliveries that were over before this; return the number."""
        with self._base.database.writing() as session:
            over = DeliveryRow.finished_at < self._base.clock(session) - older_than
            return int(getattr(session.execute(delete(DeliveryRow).where(over)), "rowcount", 0))


def announce(session: Session, owner: str, state: JobState, make_message: Callable[[], Message]) -> None:
    """Add a delivery for every webhook of an owner that listens to a state.

    Commits nothing.

    Args:
        session: The transaction that moves the job.
        owner: Owner of the job.
        state: New state of the job.
        make_message: Builds the message; called only if a webhook listens.
    """
    # Shared locks on the webhooks, so that one deleted meanwhile is skipped and fails no job.
    listening = (
        select(WebhookRow).where(WebhookRow.owner == owner, WebhookRow.enabled).order_by(WebhookRow.id)
    )
    webhooks = session.scalars(listening.with_for_update(read=True, key_share=True))
    wanted = [webhook.id for webhook in webhooks if state.value in webhook.states]
    if wanted:
        message, due_at = make_message(), database_time(session)
        session.add_all(delivery_row(webhook_id, message, due_at) for webhook_id in wanted)


def delivery_row(webhook_id: str, message: Message, due_at: datetime) -> DeliveryRow:
    """Return a row for a delivery, first due at a time of the database's clock."""
    return DeliveryRow(
        id=new_id(),
        webhook_id=webhook_id,
        type=message.type,
        job_id=message.job_id,
        payload=message.payload,
        state=DeliveryState.PENDING.value,
        attempts=0,
        created_at=message.at,
        due_at=due_at,
    )


def _secrets(webhook: WebhookRow, now: datetime) -> tuple[str, ...]:
    """Return the secrets to sign with; delete a former secret that has expired."""
    if webhook.former_until is not None and webhook.former_until <= now:
        webhook.former_secret = webhook.former_until = None
    return (webhook.secret,) if webhook.former_secret is None else (webhook.secret, webhook.former_secret)


def _end(delivery: DeliveryRow, state: DeliveryState, now: datetime) -> None:
    delivery.state, delivery.due_at, delivery.finished_at = state.value, None, now


def _disable_if_dead(webhook: WebhookRow, delivery: DeliveryRow, outcome: Outcome) -> None:
    """Disable a webhook that is gone or to which nothing has arrived.

    The latter holds if nothing has arrived since the failed delivery was created.
    """
    arrived = webhook.delivered_at is not None and webhook.delivered_at >= delivery.created_at
    if outcome.gone:
        webhook.enabled, webhook.disabled_reason = False, GONE
    elif delivery.attempts >= ATTEMPTS and not arrived:
        webhook.enabled, webhook.disabled_reason = False, DEAD
