"""Migration that creates all tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.String(32)
MOMENT = sa.DateTime(timezone=True)
ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Create all tables."""
    _create_jobs()
    _create_history()
    _create_candidates()
    _create_keys()
    _create_webhooks()


def _create_jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", ID, nullable=False),
        sa.Column("owner", sa.String(100), nullable=False),
        sa.Column("idempotency_key", sa.String(200)),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("started_at", MOMENT),
        sa.Column("finished_at", MOMENT),
        sa.Column("error", sa.JSON()),
        sa.Column("result", sa.JSON()),
        sa.Column("event_count", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("leased_until", MOMENT),
        sa.Column("pause_requested", sa.Boolean(), nullable=False),
        sa.Column("stop_requested", sa.Boolean(), nullable=False),
        sa.Column("faults", sa.Integer(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("submission", sa.String(64)),
        sa.Column("parent", ID),
        sa.Column("export", sa.JSON()),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_state_id", "jobs", ["state", "id"])
    op.create_index("ix_jobs_owner_id", "jobs", ["owner", "id"])
    op.create_index("ix_jobs_owner_idempotency_key", "jobs", ["owner", "idempotency_key"], unique=True)
    op.create_index("ix_jobs_parent_id", "jobs", ["parent", "id"])
    op.create_table(
        "labels",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("value", sa.String(200), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_labels_job_id"),
        sa.PrimaryKeyConstraint("job_id", "name", name="pk_labels"),
    )
    op.create_index("ix_labels_name_value_job_id", "labels", ["name", "value", "job_id"])
    op.create_table(
        "removals",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("deleted_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("job_id", name="pk_removals"),
    )


def _create_history() -> None:
    op.create_table(
        "events",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("seq", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_events_job_id"),
        sa.PrimaryKeyConstraint("job_id", "seq", name="pk_events"),
    )
    op.create_table(
        "generations",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("generation", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("record", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_generations_job_id"),
        sa.PrimaryKeyConstraint("job_id", "generation", name="pk_generations"),
    )
    op.create_table(
        "search_states",
        sa.Column("job_id", ID, nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_search_states_job_id"),
        sa.PrimaryKeyConstraint("job_id", name="pk_search_states"),
    )


def _create_candidates() -> None:
    op.create_table(
        "candidates",
        sa.Column("id", ROW_NUMBER, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("examples", sa.Integer(), nullable=False),
        sa.Column("genome", sa.JSON(), nullable=False),
        sa.Column("ranks", sa.JSON(), nullable=False),
        sa.Column("kept_share", sa.Double(), nullable=False),
        sa.Column("kl_nats", sa.Double()),
        sa.Column("loss_nats", sa.Double()),
        sa.Column("drop_points", sa.Double()),
        sa.Column("drop_bound", sa.Double()),
        sa.Column("metric", sa.Double()),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("failure", sa.Text()),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_candidates_job_id"),
        sa.PrimaryKeyConstraint("id", name="pk_candidates"),
    )
    op.create_index("ix_candidates_job_id_generation", "candidates", ["job_id", "generation"])
    op.create_table(
        "fronts",
        sa.Column("candidate_id", ROW_NUMBER, nullable=False),
        sa.Column("job_id", ID, nullable=False),
        sa.Column("kept_share", sa.Double(), nullable=False),
        sa.Column("loss_nats", sa.Double(), nullable=False),
        sa.Column("since", sa.Integer(), nullable=False),
        sa.Column("until", sa.Integer()),
        sa.ForeignKeyConstraint(["candidate_id"], ["candidates.id"], name="fk_fronts_candidate_id"),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_fronts_job_id"),
        sa.PrimaryKeyConstraint("candidate_id", name="pk_fronts"),
    )
    op.create_index("ix_fronts_job_id_until_kept_share", "fronts", ["job_id", "until", "kept_share"])


def _create_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(12), nullable=False),
        sa.Column("owner", sa.String(100), nullable=False),
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT),
        sa.Column("lifetime_s", sa.Double()),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )


def _create_webhooks() -> None:
    op.create_table(
        "webhooks",
        sa.Column("id", ID, nullable=False),
        sa.Column("owner", sa.String(100), nullable=False),
        sa.Column("url", sa.String(2000), nullable=False),
        sa.Column("states", sa.JSON(), nullable=False),
        sa.Column("secret", sa.String(100), nullable=False),
        sa.Column("former_secret", sa.String(100)),
        sa.Column("former_until", MOMENT),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("disabled_reason", sa.Text()),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("delivered_at", MOMENT),
        sa.Column("busy_until", MOMENT),
        sa.PrimaryKeyConstraint("id", name="pk_webhooks"),
    )
    op.create_index("ix_webhooks_owner_id", "webhooks", ["owner", "id"])
    op.create_table(
        "deliveries",
        sa.Column("id", ID, nullable=False),
        sa.Column("webhook_id", ID, nullable=False),
        sa.Column("type", sa.String(64), nullable=False),
        sa.Column("job_id", ID),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("due_at", MOMENT),
        sa.Column("finished_at", MOMENT),
        sa.Column("status", sa.Integer()),
        sa.Column("error", sa.Text()),
        sa.ForeignKeyConstraint(["webhook_id"], ["webhooks.id"], name="fk_deliveries_webhook_id"),
        sa.PrimaryKeyConstraint("id", name="pk_deliveries"),
    )
    op.create_index("ix_deliveries_webhook_id_id", "deliveries", ["webhook_id", "id"])
    op.create_index("ix_deliveries_due_at", "deliveries", ["due_at"])
    op.create_index("ix_deliveries_finished_at", "deliveries", ["finished_at"])
