"""Settings of the search: sizes, limits and rates."""

from dataclasses import dataclass

from ranksieve.search.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSettings:
    """Settings of one search.

    Args:
        population: Genomes that may become parents.
        offspring: Children of a generation.
        full: All search examples.
        generations: Generations after the seeds.
        overlap: Generations in flight at once: generation g is bred from what is known after generation g - overlap.
            With 1 every generation waits for the last outcome of the one before; more keeps many actors busy.
        max_evaluations: Largest number of scorings.
        patience: Generations without progress before the search gives up; see `schedules` for what counts.
        seed: Seed of all randomness.
        removal_rate: Chance that a child loses a sublayer, else it is mutated.

    Raises:
        InputError: A number is out of its range.
    """

    population: int = 8
    offspring: int = 6
    full: int = 256
    generations: int = 20
    overlap: int = 2
    max_evaluations: int = 400
    patience: int = 6
    seed: int = 0
    removal_rate: float = 0.2

    def __post_init__(self) -> None:
        for name in ("population", "offspring", "full", "overlap", "max_evaluations", "patience"):
            if getattr(self, name) < 1:
                raise InputError(f"search.{name}", f"must be at least 1, got {getattr(self, name)}")
        if self.generations < 0:
            raise InputError("search.generations", f"must not be negative, got {self.generations}")
        if not 0 <= self.removal_rate <= 1:
            raise InputError("search.removal_rate", f"must be in [0, 1], got {self.removal_rate}")
