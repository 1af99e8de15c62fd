"""How far a phase is, as workers report it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far a phase is; `total` 0 while it is unknown."""

    phase: str
    done: int
    total: int
