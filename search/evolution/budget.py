"""Whether the limits of a search have had a say in it: until then they may be changed, and nobody could tell.

A search that its limits have neither cut a generation of nor kept from breeding one is where any search with enough
evaluations and generations would be. So it may go on with other limits, as if it had had them from the start.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ranksieve.search.errors import ConflictError
from ranksieve.search.evolution.racing import Race


@dataclass(kw_only=True, slots=True)
class Budget:
    """What a search has taken of its limits.

    Args:
        needed: With fewer `max_evaluations`, a generation bred so far would have been cut.
        binds: Whether a generation was cut or not bred for want of evaluations or generations.
    """

    needed: int = 0
    binds: bool = False

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Self:
        """From a saved search; of one that an earlier version saved nothing is known, so its limits stay."""
        return cls(**state.get("budget", {"binds": True}))

    def state(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"needed": self.needed, "binds": self.binds}

    def book(self, spent: int, race: Race, *, cut: bool) -> None:
        """Takes in a new generation.

        Args:
            spent: Scorings that those before it took, or may take.
            race: Of its candidates.
            cut: Whether there were not enough evaluations for all of them.
        """
        self.needed = max(self.needed, spent + max(1, race.cost))
        self.binds |= cut


def check_limits(state: Mapping[str, Any], *, generations: int, max_evaluations: int) -> None:
    """Refuse limits that a saved search cannot go on with as if it had had them from the start.

    Args:
        state: What the search saved.
        generations: New `search.generations`.
        max_evaluations: New `search.max_evaluations`.

    Raises:
        ConflictError: Its old limits have had a say in it, or it has passed the new ones.
    """
    budget = Budget.of(state)
    bred = max([saved["generation"] for saved in state["flight"]], default=state["generation"])
    if budget.binds:
        raise ConflictError(
            "the search is ending by its old limits already, so others would make another search; "
            "submit a job that goes on from it"
        )
    if generations < bred:
        raise ConflictError(
            f"search.generations must be at least {bred}, which is bred already, got {generations}; "
            "stop the job instead"
        )
    if max_evaluations < budget.needed:
        raise ConflictError(
            f"search.max_evaluations must be at least {budget.needed}, which are spent or taken, "
            f"got {max_evaluations}; stop the job instead"
        )
