"""Jobs of before errors were propagated stay without: their scorings are of factors that were made so."""

from ranksieve.service.store.migrations.specs import Spec, change

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

FIELD = "propagated_shares"


def upgrade() -> None:
    """To this revision."""
    change(lambda spec: spec if FIELD in spec["projection"] else _without(spec))


def downgrade() -> None:
    """From this revision, whose specs earlier ones do not understand."""
    change(
        lambda spec: {
            **spec,
            "projection": {name: value for name, value in spec["projection"].items() if name != FIELD},
        }
    )


def _without(spec: Spec) -> Spec:
    """Other methods than `task` are not even to say so."""
    projection = spec["projection"]
    return {**spec, "projection": {**projection, FIELD: [] if projection["method"] == "task" else None}}
