"""`search` of a job file: how long the search runs, where it starts, and what it may not do."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ranksieve.service.spec.strict import Strict, Texts

DEFAULT_SCREEN = 64

MOST_SEEDS = 1000
MOST_GENOMES = 10_000
"""Of all seeds together, as many as may be in a population."""


class ConstraintSpec(Strict):
    """A demand on the matrices whose names match; several demands on a matrix hold together."""

    matrices: Texts = Field(
        min_length=1, max_length=1000, description="Shell patterns of matrix names, as for `model.include`."
    )
    layers: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | None = Field(
        None, strict=False, description="First and last layer that it is about."
    )
    min_density: float = Field(0.0, ge=0, le=1, description="Least share of its parameters that each keeps.")
    max_density: float = Field(1.0, ge=0, le=1)
    min_rank: int = Field(0, ge=0, description="Least rank; dense counts as the smaller width.")
    max_rank: int | None = Field(None, ge=0)
    frozen: Literal["dense"] | Annotated[int, Field(ge=0)] | None = Field(
        None, description="The one rank that each has, or `dense`."
    )
    tied: Literal["layer", "all"] | None = Field(
        None,
        description="One density for those of a `layer`, or for `all`, each rounded down to its own ranks.",
    )

    @model_validator(mode="after")
    def _demands_what_can_be(self) -> Self:
        if self.layers is not None and self.layers[0] > self.layers[1]:
            raise ValueError(f"layers must be the first and the last, got {list(self.layers)}")
        if self.min_density > self.max_density:
            raise ValueError(
                f"min_density must be at most max_density, {self.max_density}; got {self.min_density}"
            )
        if self.max_rank is not None and self.min_rank > self.max_rank:
            raise ValueError(f"min_rank must be at most max_rank, {self.max_rank}; got {self.min_rank}")
        bounded = (self.min_density, self.max_density, self.min_rank, self.max_rank) != (0, 1, 0, None)
        if self.frozen is not None and bounded:
            raise ValueError("frozen leaves nothing to bound; remove it, or the bounds")
        if self.frozen is None and not bounded and self.tied is None:
            raise ValueError("demands nothing: give a bound, frozen or tied")
        return self


class SeedSpec(Strict):
    """Genomes to start from besides the search's own: exactly one of `path`, `ranks`, `densities` and `random`."""

    path: str | None = Field(
        None,
        description="JSON file with `ranks`, matrix name → rank (-1: dense): an exported model's "
        "`ranksieve.json`, or a job's result.",
    )
    ranks: tuple[Annotated[int, Field(ge=-1)], ...] | None = Field(
        None,
        strict=False,
        min_length=1,
        max_length=100_000,
        description="The rank of every matrix to prune, in their order (-1: dense), as the API tells of candidates.",
    )
    densities: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Shell pattern of matrix names → share of the parameters to keep; the first that matches counts.",
    )
    random: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="So many genomes, every matrix at one of LLM-Sieve's ten densities.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("path", "ranks", "densities", "random") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of path, ranks, densities and random; got {' and '.join(given) or 'none'}"
            )
        return self


class SearchSpec(Strict):
    """The genetic search over rank vectors."""

    population: int = Field(8, ge=2, le=10_000)
    offspring: int = Field(12, ge=1, le=10_000, description="Children proposed in a generation.")
    survivors: int = Field(
        3, ge=1, le=10_000, description="Children promoted from the screen to all search examples."
    )
    screen: int = Field(
        DEFAULT_SCREEN,
        ge=1,
        le=1_000_000,
        description="Search examples that screen children, where there are more.",
    )
    generations: int = Field(20, ge=0, le=100_000)
    overlap: int = Field(
        2,
        ge=1,
        le=1000,
        description="Generations in flight at once; 1 waits for the last outcome of one before breeding the next.",
    )
    max_evaluations: int = Field(400, ge=1, le=10_000_000, description="Scorings, of any stage.")
    patience: int = Field(
        6,
        ge=1,
        le=100_000,
        description="Generations without progress before the search ends; for `max_drop`, where it goes on in ever "
        "smaller steps, half as many at each of these.",
    )
    kl_weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the KL to the dense model in the fitness; the rest is the rise of the right "
        "answers' negative log-likelihood.",
    )
    reweigh_rounds: int | None = Field(
        None,
        ge=0,
        le=100,
        description="So many times, before the search, the Lagrangian genome of the size that is wanted or looked for, "
        "or in the middle of many, is run forwards and backwards over 256 calibration records, the next ones each "
        "time, and what its matrices are worth is corrected by how its loss reacts. Null: enough for four passes over "
        "all, but at most 8, for `task` projections; else 0.",
    )
    descent_rounds: int | None = Field(
        None,
        ge=0,
        le=100,
        description="At most so many times after that the genome is run forwards and backwards over up to 1,024 "
        "calibration records, and steps that promise most by the slopes of its loss are taken together; a time that "
        "promises little is the last at its size. Where the smallest model is wanted, they go down where it holds and "
        "else up, and at last up; where many sizes are, from the middle to the smallest. The search sets out from "
        "where that leads. Null: 8 where the smallest is wanted, else 5.",
    )
    seed: int = Field(0, ge=0, le=2**32 - 1)
    constraints: tuple[ConstraintSpec, ...] = Field(
        (), strict=False, max_length=1000, description="What no candidate may break."
    )
    seeds: tuple[SeedSpec, ...] = Field(
        (), strict=False, max_length=MOST_SEEDS, description="Genomes to start from, too."
    )

    @model_validator(mode="after")
    def _survivors_are_offspring(self) -> Self:
        if self.survivors > self.offspring:
            raise ValueError(f"survivors must be at most offspring, {self.offspring}; got {self.survivors}")
        return self
