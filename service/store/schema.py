"""Tables of the store, of portable types: SQLite by default, PostgreSQL by URL.

Every row except those of API keys and webhooks belongs to a job. A delivery may outlive its job, and a removal is added
when the job is deleted.
`jobs.event_count` numbers the job's events. Appending one locks the job's row, so the numbers have no gaps.
`jobs.epoch` and `jobs.leased_until` say which server may write to a running job: the one that claimed it last, while it
keeps its lease. `jobs.parent` of an export is the job it comes from. Change a table here and add a migration.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
)
from sqlalchemy import DateTime as SqlDateTime
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from ranksieve.service.spec import LONGEST_LABEL


class UtcDateTime(TypeDecorator[datetime]):
    """Aware time, stored in UTC.

    SQLite drops the zone, so it is added again when a value is read.
    """

    impl = SqlDateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Convert a time to UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return an aware time in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Base of the tables that names every constraint, for migrations."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 (read by SQLAlchemy as a plain class attribute)
        datetime: UtcDateTime(),
        float: Double(),
        dict[str, Any]: JSON(none_as_null=True),
        list[int]: JSON(none_as_null=True),
        list[str]: JSON(none_as_null=True),
    }


class JobRow(Base):
    """A job's spec, state and outcome.

    `submission` is the SHA-256 of the submitted spec; `spec` may have been changed since. `priority` is the spec's,
    for ordering. A queued job with a lease waits until the lease has run out.
    """

    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "state", "id"),
        Index(None, "owner", "id"),
        Index(None, "owner", "idempotency_key", unique=True),
        Index(None, "parent", "id"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner: Mapped[str] = mapped_column(String(100))
    idempotency_key: Mapped[str | None] = mapped_column(String(200))
    spec: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(String(16))
    cancel_requested: Mapped[bool]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    error: Mapped[dict[str, Any] | None]
    result: Mapped[dict[str, Any] | None]
    event_count: Mapped[int]
    epoch: Mapped[int] = mapped_column(default=0)
    leased_until: Mapped[datetime | None]
    pause_requested: Mapped[bool] = mapped_column(default=False)
    stop_requested: Mapped[bool] = mapped_column(default=False)
    faults: Mapped[int] = mapped_column(default=0)
    priority: Mapped[int]
    submission: Mapped[str | None] = mapped_column(String(64))
    parent: Mapped[str | None] = mapped_column(String(32))
    export: Mapped[dict[str, Any] | None]


class LabelRow(Base):
    """Label of a job, copied from its spec, to find the job by."""

    __tablename__ = "labels"
    __table_args__ = (Index(None, "name", "value", "job_id"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(LONGEST_LABEL), primary_key=True)
    value: Mapped[str] = mapped_column(String(LONGEST_LABEL))


class KeyRow(Base):
    """API key; `digest` is the SHA-256 of its secret.

    The key is invalid from `expires_at` on. A key that replaces it gets the lifetime `lifetime_s`, in seconds, that
    it was created with.
    """

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(12), primary_key=True)
    owner: Mapped[str] = mapped_column(String(100))
    scope: Mapped[str] = mapped_column(String(16))
    digest: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    lifetime_s: Mapped[float | None] = mapped_column(Double)


class EventRow(Base):
    """Event number `seq` of a job."""

    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    type: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime]
    data: Mapped[dict[str, Any]]


class GenerationRow(Base):
    """The summary of one finished generation."""

    __tablename__ = "generations"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    generation: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    record: Mapped[dict[str, Any]]


class CandidateRow(Base):
    """One scoring of one genome on the search split.

    `failure` is the reason if there are no numbers.
    """

    __tablename__ = "candidates"
    __table_args__ = (Index(None, "job_id", "generation"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    generation: Mapped[int]
    genome: Mapped[list[int]]
    ranks: Mapped[list[int]]
    kept_share: Mapped[float]
    kl_nats: Mapped[float | None]
    loss_nats: Mapped[float | None]
    drop_points: Mapped[float | None]
    drop_bound: Mapped[float | None]
    metric: Mapped[float | None]
    tokens: Mapped[int] = mapped_column(BigInteger)
    seconds: Mapped[float]
    failure: Mapped[str | None] = mapped_column(Text)


class FrontRow(Base):
    """Scoring that was on the front for some generations.

    No smaller model's scoring beat it from generation `since` to before `until`. `loss_nats` is the KL if the search
    minimises nothing else.
    """

    __tablename__ = "fronts"
    __table_args__ = (Index(None, "job_id", "until", "kept_share"),)

    candidate_id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), ForeignKey("candidates.id"), primary_key=True
    )
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    kept_share: Mapped[float]
    loss_nats: Mapped[float]
    since: Mapped[int]
    until: Mapped[int | None]


class SearchStateRow(Base):
    """State of the search after its last finished generation, to continue from."""

    __tablename__ = "search_states"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    state: Mapped[dict[str, Any]]


class RemovalRow(Base):
    """Deleted job whose files are still to be removed, by every server that has some."""

    __tablename__ = "removals"

    job_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    deleted_at: Mapped[datetime]


class WebhookRow(Base):
    """An owner's URL that is notified of jobs.

    `secret` is stored as it is, because every delivery is signed with it; `former_secret` is valid until
    `former_until`. `busy_until` is the end of the lease of the server that sends to it now, or the time of the last
    attempt.
    """

    __tablename__ = "webhooks"
    __table_args__ = (Index(None, "owner", "id"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    owner: Mapped[str] = mapped_column(String(100))
    url: Mapped[str] = mapped_column(String(2000))
    states: Mapped[list[str]]
    secret: Mapped[str] = mapped_column(String(100))
    former_secret: Mapped[str | None] = mapped_column(String(100))
    former_until: Mapped[datetime | None]
    enabled: Mapped[bool]
    disabled_reason: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    delivered_at: Mapped[datetime | None]
    busy_until: Mapped[datetime | None]


class DeliveryRow(Base):
    """One event on its way to a webhook.

    `due_at` is the time of the next attempt, and NULL once it is over.
    """

    __tablename__ = "deliveries"
    __table_args__ = (Index(None, "webhook_id", "id"), Index(None, "due_at"), Index(None, "finished_at"))

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    webhook_id: Mapped[str] = mapped_column(ForeignKey("webhooks.id"))
    type: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str | None] = mapped_column(String(32))
    payload: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16))
    attempts: Mapped[int]
    created_at: Mapped[datetime]
    due_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    status: Mapped[int | None]
    error: Mapped[str | None] = mapped_column(Text)
