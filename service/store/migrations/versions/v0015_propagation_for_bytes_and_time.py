"""Jobs of before errors were propagated for a size in bytes or in time stay without.

Their scorings are of factors that were made so.
"""

from ranksieve.service.store.migrations.specs import keep_unpropagated

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision."""
    keep_unpropagated("target_bytes", "target_latency")


def downgrade() -> None:
    """From this revision: an empty list says the same before it."""
