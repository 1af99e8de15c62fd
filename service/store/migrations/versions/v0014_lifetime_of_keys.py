"""How long a key was made for, beside when it ends: a key that was replaced ends sooner, and may be replaced again."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """To this revision; of a key that was replaced before it is not known for how long it was made."""
    op.add_column("api_keys", sa.Column("lifetime_s", sa.Double()))
    keys = sa.table(
        "api_keys",
        sa.column("id", sa.String()),
        sa.column("created_at", MOMENT),
        sa.column("expires_at", MOMENT),
        sa.column("lifetime_s", sa.Double()),
    )
    connection = op.get_bind()
    ending = sa.select(keys.c.id, keys.c.created_at, keys.c.expires_at).where(keys.c.expires_at.is_not(None))
    for id, created, expires in connection.execute(ending).all():
        lifetime_s = (expires - created).total_seconds()
        connection.execute(keys.update().where(keys.c.id == id).values(lifetime_s=lifetime_s))


def downgrade() -> None:
    """From this revision."""
    op.drop_column("api_keys", "lifetime_s")
