"""Webhooks in the store: created, listed, changed, tested, deleted."""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from ranksieve.search.errors import ConflictError, InputError, LimitError, NotFoundError
from ranksieve.service.job.ids import new_id
from ranksieve.service.job.job import JobState
from ranksieve.service.store.database import Database
from ranksieve.service.store.outbox import delivery_row
from ranksieve.service.store.schema import DeliveryRow, WebhookRow
from ranksieve.service.store.times import database_time, now
from ranksieve.service.webhooks.messages import trial_message
from ranksieve.service.webhooks.webhook import TEST, Delivery, DeliveryState, Webhook, new_secret

ROOM_AFTER_S = 60
"""Wait before an owner with too many webhooks should try again, in seconds."""


class Webhooks:
    """Webhooks of one owner; those of other owners do not exist in it.

    A secret is returned only when it is created.

    Args:
        database: Database of the webhooks.
        owner: Owner whose webhooks are visible; None: all.
    """

    def __init__(self, database: Database, owner: str | None) -> None:
        self._database = database
        self._owner = owner

    def create(
        self,
        owner: str,
        url: str,
        states: Sequence[JobState],
        *,
        enabled: bool = True,
        most: int | None = None,
    ) -> tuple[Webhook, str]:
        """Create a webhook.

        Args:
            owner: Owner of the jobs that it is notified of.
            url: Checked URL.
            states: States of jobs that it is notified of.
            enabled: Whether it is notified at all.
            most: Most webhooks of one owner; None: no limit. PostgreSQL may let a few through that arrive at the
                same moment.

        Returns:
            The webhook, and the secret that its deliveries are signed with.

        Raises:
            LimitError: The owner has reached the limit of webhooks.
        """
        with self._database.writing() as session:
            if most is not None:
                _require_room(session, owner, most)
            row = WebhookRow(
                id=new_id(),
                owner=owner,
                url=url,
                states=_distinct(states),
                secret=new_secret(),
                enabled=enabled,
                created_at=now(),
            )
            session.add(row)
            return _webhook_of(row), row.secret

    def all(self) -> list[Webhook]:
        """Return all webhooks, oldest first."""
        query = select(WebhookRow).order_by(WebhookRow.id)
        if self._owner is not None:
            query = query.where(WebhookRow.owner == self._owner)
        with self._database.reading() as session:
            return [_webhook_of(row) for row in session.scalars(query)]

    def get(self, id: str) -> Webhook:
        """Return one webhook.

        Raises:
            NotFoundError: There is no such webhook.
        """
        with self._database.reading() as session:
            return _webhook_of(self._find(session, id))

    def change(
        self,
        id: str,
        *,
        url: str | None = None,
        states: Sequence[JobState] | None = None,
        enabled: bool | None = None,
    ) -> Webhook:
        """Change the given fields.

        Waiting deliveries wait while a webhook is disabled, and go to its new URL.

        Raises:
            NotFoundError: There is no such webhook.
        """
        with self._database.writing() as session:
            row = self._find(session, id, lock=True)
            if url is not None:
                row.url = url
            if states is not None:
                row.states = _distinct(states)
            if enabled is not None:
                row.enabled, row.disabled_reason = enabled, None
            return _webhook_of(row)

    def rotate(self, id: str, grace: timedelta = timedelta()) -> tuple[Webhook, str]:
        """Replace a webhook's secret.

        Args:
            id: The webhook.
            grace: Time that deliveries are signed with the former secret, too.

        Returns:
            The webhook and its new secret.

        Raises:
            NotFoundError: There is no such webhook.
        """
        with self._database.writing() as session:
            row = self._find(session, id, lock=True)
            keeps = grace > timedelta()
            row.former_secret = row.secret if keeps else None
            row.former_until = database_time(session) + grace if keeps else None
            row.secret = new_secret()
            return _webhook_of(row), row.secret

    def delete(self, id: str) -> None:
        """Delete a webhook and its deliveries, including waiting ones.

        Raises:
            NotFoundError: There is no such webhook.
        """
        with self._database.writing() as session:
            row = self._find(session, id, lock=True)  # no delivery is added from here on
            session.execute(delete(DeliveryRow).where(DeliveryRow.webhook_id == id))
            session.delete(row)

    def test(self, id: str) -> Delivery:
        """Add a test delivery, or return the one that waits already.

        Raises:
            NotFoundError: There is no such webhook.
            ConflictError: The webhook is disabled.
        """
        waiting = select(DeliveryRow).where(
            DeliveryRow.webhook_id == id, DeliveryRow.due_at.is_not(None), DeliveryRow.type == TEST
        )
        with self._database.writing() as session:
            row = self._find(session, id, lock=True)
            if not row.enabled:
                raise ConflictError(f"webhook {id} is disabled; enable it before you test it")
            delivery = session.scalars(waiting).first()
            if delivery is None:
                delivery = delivery_row(id, trial_message(id, now()), database_time(session))
                session.add(delivery)
            return _delivery_of(delivery)

    def deliveries(self, id: str, *, limit: int = 50, after: str | None = None) -> list[Delivery]:
        """Return a page of a webhook's deliveries, newest first.

        Args:
            id: The webhook.
            limit: Most deliveries to return.
            after: Id of the last one of the page before.

        Raises:
            NotFoundError: There is no such webhook.
            InputError: `after` is not an id.
        """
        query = select(DeliveryRow).where(DeliveryRow.webhook_id == id).order_by(DeliveryRow.id.desc())
        if after is not None:
            if not after.isalnum():
                raise InputError("after", f"must be the id of a delivery; got {after!r}")
            query = query.where(DeliveryRow.id < after)
        with self._database.reading() as session:
            self._find(session, id)
            return [_delivery_of(row) for row in session.scalars(query.limit(limit))]

    def _find(self, session: Session, id: str, *, lock: bool = False) -> WebhookRow:
        row = session.get(WebhookRow, id, with_for_update=True if lock else None) if id.isalnum() else None
        if row is None or self._owner not in (None, row.owner):
            raise NotFoundError(f"there is no webhook {id!r}")
        return row


def _require_room(session: Session, owner: str, most: int) -> None:
    count = session.execute(select(func.count()).where(WebhookRow.owner == owner)).scalar_one()
    if not most:
        raise ConflictError("this server keeps no webhooks: its RANKSIEVE_WEBHOOKS is 0")
    if count >= most:
        raise LimitError(
            f"{owner} has {count} webhooks, and this server keeps {most} of one owner; delete one first",
            retry_after_s=ROOM_AFTER_S,
        )


def _distinct(states: Sequence[JobState]) -> list[str]:
    return list(dict.fromkeys(state.value for state in states))


def _webhook_of(row: WebhookRow) -> Webhook:
    return Webhook(
        id=row.id,
        owner=row.owner,
        url=row.url,
        states=tuple(JobState(state) for state in row.states),
        enabled=row.enabled,
        disabled_reason=row.disabled_reason,
        created_at=row.created_at,
        delivered_at=row.delivered_at,
    )


def _delivery_of(row: DeliveryRow) -> Delivery:
    return Delivery(
        id=row.id,
        type=row.type,
        job_id=row.job_id,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        created_at=row.created_at,
        due_at=row.due_at,
        finished_at=row.finished_at,
        status=row.status,
        error=row.error,
    )
