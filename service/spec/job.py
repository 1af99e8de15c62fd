"""A whole job file, and what its parts demand of each other."""

from typing import Annotated, Any, Self

from pydantic import Field, ValidationInfo, model_validator

from ranksieve.search.space.objectives import MaxDrop as WithinDrop
from ranksieve.search.statistics.pvalues import MOST_CONFIDENCE
from ranksieve.service.spec.model import Model
from ranksieve.service.spec.objective import MaxDrop, Objective, Pareto, TargetParams
from ranksieve.service.spec.projection import ProjectionSpec
from ranksieve.service.spec.resources import LEAST_SHARE, ResourceSpec
from ranksieve.service.spec.search import DEFAULT_SCREEN, MOST_GENOMES, SearchSpec
from ranksieve.service.spec.strict import Strict
from ranksieve.service.spec.task import TaskSpec

LONGEST_LABEL = 200
"""Characters of a label's name, and of its value."""

Name = Annotated[str, Field(max_length=200)]
Labels = Annotated[dict[str, str], Field(max_length=100)]
Priority = Annotated[int, Field(ge=-100, le=100)]


class ParentSpec(Strict):
    """A job to start from, and how far it had come."""

    job: str = Field(max_length=100)
    generation: Annotated[int, Field(ge=0, le=100_000)] | None = Field(
        None, description="By default the last."
    )


ROUND_EXAMPLES = 256
"""Of the calibration split in a round of reweighing, if it has as many."""

REWEIGH_PASSES, MOST_ROUNDS = 4, 8
"""Where no rounds are given: so often over the calibration split, more would fit it; and how many at most."""

MOST_DESCENT_ROUNDS = 5
"""Where none are given."""

STAIRCASE_ROUNDS = 8
"""The same where the smallest model is wanted: these also look for its size."""

MIDWAY_SHARE = 0.3
"""Where neither the projection nor the objective gives one; models of other sizes gain nearly as much."""

PROPAGATED_AROUND = (0.8, 1.6)
"""By what the size that is wanted is multiplied."""

_STORED = {"stored": True}


def parts_of(calibration: int, size: int) -> int:
    """Into how many parts of a size the calibration examples are divided for rounds; what is left over is in none."""
    return max(1, calibration // size)


def usual_rounds(calibration: int) -> int:
    """Rounds of reweighing where none are given, by the number of calibration examples."""
    return min(MOST_ROUNDS, REWEIGH_PASSES * parts_of(calibration, ROUND_EXAMPLES))


class JobSpec(Strict):
    """One pruning job."""

    name: Name = ""
    labels: Labels = Field(default_factory=dict)
    priority: Priority = Field(0, description="Of the jobs in the queue the highest goes first.")
    model: Model
    task: TaskSpec
    projection: ProjectionSpec = Field(default_factory=ProjectionSpec)
    search: SearchSpec = Field(default_factory=SearchSpec)
    objective: Objective = Field(default_factory=MaxDrop)
    resources: ResourceSpec = Field(default_factory=ResourceSpec)
    parent: ParentSpec | None = Field(
        None,
        description="What this job of the same model found by then is added to `search.seeds`, at submission.",
    )

    @classmethod
    def stored(cls, document: dict[str, Any]) -> Self:
        """A spec that was taken once, perhaps by an older version: its parts may demand more of each other by now."""
        return cls.model_validate(document, context=_STORED)

    @model_validator(mode="after")
    def _parts_fit(self, info: ValidationInfo) -> Self:
        if info.context != _STORED and (wrong := self.misfits()):
            raise ValueError(wrong[0])
        return self

    def misfits(self) -> list[str]:
        """What its parts demand of each other in vain; each begins with the field to change."""
        search, wrong = self.search, []
        longest = max(map(len, [*self.labels, *self.labels.values()]), default=0)
        if longest > LONGEST_LABEL:
            wrong.append(
                f"labels must have names and values of at most {LONGEST_LABEL} characters; got one of {longest}"
            )
        # the default is what nobody asked for: with fewer records there is no screen
        if search.screen > self.task.data.sizes.search and search.screen != DEFAULT_SCREEN:
            wrong.append(
                f"search.screen must be at most task.data.sizes.search, {self.task.data.sizes.search}; "
                f"got {search.screen}"
            )
        if (genomes := sum(seed.random or 1 for seed in search.seeds)) > MOST_GENOMES:
            wrong.append(f"search.seeds must be at most {MOST_GENOMES:,} genomes in all; got {genomes:,}")
        if 0 < (gpus := self.resources.gpus_per_actor) < LEAST_SHARE:
            wrong.append(f"resources.gpus_per_actor must be 0 or at least {LEAST_SHARE:g}; got {gpus:g}")
        if isinstance(self.objective, Pareto) and self.objective.sizes > search.max_evaluations:
            wrong.append(
                f"search.max_evaluations must be at least objective.sizes, {self.objective.sizes}; "
                f"got {search.max_evaluations}"
            )
        if isinstance(self.objective, MaxDrop | Pareto) and self.objective.confidence > MOST_CONFIDENCE:
            wrong.append(
                f"objective.confidence must be at most {MOST_CONFIDENCE}, more than which no test of finalists can "
                f"tell; got {self.objective.confidence}"
            )
        if search.reweigh_rounds and self.projection.method != "task":
            wrong.append(
                "search.reweigh_rounds must be 0 or left out where projection.method is not task, whose energies "
                f"alone are in units of the loss; got {search.reweigh_rounds}"
            )
        if self.projection.propagation_rounds > 1 and not (
            self.propagates and (self.reweigh_rounds or self.descent_rounds)
        ):
            wrong.append(
                "projection.propagation_rounds must be 1 or left out where no errors are propagated, or nothing is "
                f"reweighed or descended in between; got {self.projection.propagation_rounds}"
            )
        return wrong

    @property
    def midway_share(self) -> float | None:
        """The share of the model on the way to which second moments are gathered, if they are; see `ProjectionSpec`."""
        if self.projection.method != "task":
            return None
        share = self.projection.midway_share
        if share is None:
            share = self._wanted_share or MIDWAY_SHARE
        return share if share < 1 else None

    @property
    def propagates(self) -> bool:
        """Whether errors are propagated, where the model lets them."""
        return bool(self.propagated_shares())

    def propagated_shares(self, share: float | None = None) -> tuple[float, ...] | WithinDrop:
        """The shares of the models in which errors are propagated, if they are; see `ProjectionSpec`.

        Args:
            share: Of the prunable parameters, what an objective in bytes or time leaves; None while that is not known.
        """
        if self.projection.method != "task":
            return ()
        if self.projection.propagated_shares is not None:
            return self.projection.propagated_shares
        if self.projection.refine_epochs:  # not measured with it
            return ()
        match self.objective:
            case MaxDrop(points=points) if self.task.kind == "choice":  # written answers may get worse by it
                return WithinDrop(points=points)
            case MaxDrop() | Pareto():
                return ()
        wanted = self._wanted_share or share or MIDWAY_SHARE
        around = (round(wanted * factor, 6) for factor in PROPAGATED_AROUND) if wanted < 1 else ()
        return tuple(one for one in around if 0 < one < 1)

    @property
    def _wanted_share(self) -> float | None:
        return self.objective.share if isinstance(self.objective, TargetParams) else None

    @property
    def reweigh_rounds(self) -> int:
        """How often the energies are reweighed; see `SearchSpec`."""
        if self.search.reweigh_rounds is not None:
            return self.search.reweigh_rounds
        return usual_rounds(self.task.data.sizes.calibration) if self.projection.method == "task" else 0

    @property
    def descent_rounds(self) -> int:
        """How often at most the genome to set out from is moved along the slopes of its loss; see `SearchSpec`."""
        if self.search.descent_rounds is not None:
            return self.search.descent_rounds
        return STAIRCASE_ROUNDS if isinstance(self.objective, MaxDrop) else MOST_DESCENT_ROUNDS

    def canonical(self) -> dict[str, Any]:
        """The spec as plain JSON values with every default written out."""
        return self.model_dump(mode="json")
