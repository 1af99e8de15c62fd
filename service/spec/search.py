"""`search` of a job file: its limit, its seeds and its constraints."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ranksieve.service.spec.strict import ADVANCED, FirstError, Strict, Texts

MOST_SEEDS = 1000

Evaluations = Annotated[int, Field(ge=1, le=10_000_000)]
Density = Annotated[float, Field(ge=0, le=1)]


class ConstraintSpec(Strict):
    """A constraint on the matrices whose names match.

    Several constraints on a matrix hold together.
    """

    matrices: Texts = Field(
        min_length=1,
        max_length=1000,
        description="Shell patterns of matrix names, such as `*.layers.0.*`.",
        json_schema_extra=ADVANCED,
    )
    density: tuple[Density, Density] = Field(
        (0.0, 1.0),
        strict=False,
        description="Least and greatest share of its parameters that each matrix keeps; `[1, 1]`: it stays dense.",
        json_schema_extra=ADVANCED,
    )
    tied: Literal["layer", "all"] | None = Field(
        None,
        description="One density for the matrices of a `layer`, or for `all` of them.",
        json_schema_extra=ADVANCED,
    )

    @model_validator(mode="after")
    def _demands_what_can_be(self) -> Self:
        least, greatest = self.density
        if least > greatest:
            raise ValueError(f"density must be the least and the greatest share; got {list(self.density)}")
        if self.density == (0, 1) and self.tied is None:
            raise ValueError("demands nothing: give density or tied")
        return self


class SeedSpec(Strict):
    """A genome to start from, besides those of the search itself.

    Give exactly one of `path` and `ranks`.
    """

    path: str | None = Field(
        None,
        description="JSON file with `ranks`, matrix name → rank (-1: dense): an exported model's "
        "`ranksieve.json`, or a job's result.",
        json_schema_extra=ADVANCED,
    )
    ranks: Annotated[tuple[Annotated[int, Field(ge=-1)], ...], FirstError()] | None = Field(
        None,
        strict=False,
        min_length=1,
        max_length=100_000,
        description="The rank of every matrix to prune, in their order (-1: dense), as the API lists those of "
        "candidates.",
        json_schema_extra=ADVANCED,
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.ranks is None):
            raise ValueError("give exactly one of path and ranks")
        return self


class SearchSpec(Strict):
    """The genetic search over rank vectors; `effort` sets how long it runs."""

    max_evaluations: Evaluations | None = Field(
        None,
        description="Most scorings of candidates. Default: by `effort`.",
        json_schema_extra=ADVANCED,
    )
    constraints: Annotated[tuple[ConstraintSpec, ...], FirstError()] = Field(
        (),
        strict=False,
        max_length=1000,
        description="What no candidate may break.",
        json_schema_extra=ADVANCED,
    )
    seeds: Annotated[tuple[SeedSpec, ...], FirstError()] = Field(
        (),
        strict=False,
        max_length=MOST_SEEDS,
        description="Genomes to start from.",
        json_schema_extra=ADVANCED,
    )
