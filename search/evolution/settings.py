"""Settings of the search: sizes, limits and rates."""

from dataclasses import dataclass

from ranksieve.search.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSettings:
    """Settings of one search.

    Args:
        population: Genomes that may become parents.
        offspring: Children proposed in a generation.
        survivors: Children promoted from the screen to all search examples.
        screen: Search examples that screen children; at `full` or more there is no screen.
        full: All search examples.
        generations: Generations after the seeds.
        overlap: Generations in flight at once: generation g is bred from what is known after generation g - overlap.
            With 1 every generation waits for the last outcome of the one before; more keeps many actors busy.
        max_evaluations: Largest number of scorings, of any stage.
        patience: Generations without progress before the search gives up; see `schedules` for what counts.
        seed: Seed of all randomness.
        crossover_rate: Chance that a child has two parents.
        removal_rate: Chance that a child loses a sublayer.
        transfer_rate: Chance that a child without a removal is changed by a transfer, not by a mutation.

    Raises:
        InputError: A number is out of its range.
    """

    population: int = 8
    offspring: int = 12
    survivors: int = 3
    screen: int = 64
    full: int = 256
    generations: int = 20
    overlap: int = 2
    max_evaluations: int = 400
    patience: int = 6
    seed: int = 0
    crossover_rate: float = 0.7
    removal_rate: float = 0.2
    transfer_rate: float = 0.3

    def __post_init__(self) -> None:
        for name in (
            "population",
            "offspring",
            "survivors",
            "screen",
            "full",
            "overlap",
            "max_evaluations",
            "patience",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"search.{name}", f"must be at least 1, got {getattr(self, name)}")
        if self.generations < 0:
            raise InputError("search.generations", f"must not be negative, got {self.generations}")
        if self.survivors > self.offspring:
            raise InputError(
                "search.survivors", f"must be at most offspring, {self.offspring}, got {self.survivors}"
            )
        for name in ("crossover_rate", "removal_rate", "transfer_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"search.{name}", f"must be in [0, 1], got {getattr(self, name)}")
