"""Jobs of before errors were propagated for a drop stay without: their scorings are of factors that were made so.

Those that propagated errors before do so still, but get a bias of the output head with it, which they were not scored
with: what they have not finished, or is exported from them, is of other factors.
"""

from ranksieve.service.store.migrations.specs import keep_unpropagated

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """To this revision."""
    keep_unpropagated("max_drop")


def downgrade() -> None:
    """From this revision: an empty list says the same before it."""
