"""Progress of a phase, as workers report it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Progress of a phase; `total` is 0 while unknown."""

    phase: str
    done: int
    total: int
