"""Model of the whole job file, and demands of its parts on each other."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field

from ranksieve.service.spec.model import Model
from ranksieve.service.spec.objective import MaxDrop, Objective
from ranksieve.service.spec.resources import ResourceSpec
from ranksieve.service.spec.search import SearchSpec
from ranksieve.service.spec.strict import ADVANCED, Strict
from ranksieve.service.spec.task import SplitName, TaskSpec

LONGEST_LABEL = 200
"""Most characters of a label's name, and of its value."""

Name = Annotated[str, Field(max_length=200)]


def _short(labels: dict[str, str]) -> dict[str, str]:
    longest = max(map(len, [*labels, *labels.values()]), default=0)
    if longest > LONGEST_LABEL:
        raise ValueError(
            f"must have names and values of at most {LONGEST_LABEL} characters; got one of {longest}"
        )
    return labels


Labels = Annotated[dict[str, str], Field(max_length=100), AfterValidator(_short)]
Priority = Annotated[int, Field(ge=-100, le=100)]
EffortName = Literal["quick", "normal", "thorough"]


class ParentSpec(Strict):
    """A finished or running job to start from."""

    job: str = Field(
        max_length=100,
        description="Job of the same model; the best genomes that it has found are added to `search.seeds`.",
        json_schema_extra=ADVANCED,
    )


class JobSpec(Strict):
    """One pruning job."""

    name: Name = Field("", description="Name of the job, for people.")
    model: Model
    task: TaskSpec
    objective: Objective = Field(default_factory=MaxDrop)
    effort: EffortName = Field(
        "normal",
        description="Time against size. `quick`: no training and no search. `normal`: one pass of training for tasks "
        "with choices, and a short search. `thorough`: more of both.",
    )
    seed: int = Field(
        0, ge=0, le=2**32 - 1, description="Seed of all randomness: splits, calibration and search."
    )
    labels: Labels = Field(
        default_factory=dict, description="Names and values to find jobs by.", json_schema_extra=ADVANCED
    )
    priority: Priority = Field(
        0, description="Of the jobs in the queue, the highest goes first.", json_schema_extra=ADVANCED
    )
    search: SearchSpec = Field(default_factory=SearchSpec, json_schema_extra=ADVANCED)
    resources: ResourceSpec = Field(default_factory=ResourceSpec, json_schema_extra=ADVANCED)
    parent: ParentSpec | None = Field(None, json_schema_extra=ADVANCED)

    @property
    def sizes(self) -> Mapping[SplitName, int]:
        """Records of every split; complete once the job is settled."""
        return self.task.data.sizes

    def with_sizes(self, sizes: Mapping[str, int]) -> Self:
        """Fill in the sizes of the splits, as the records were divided."""
        data = self.task.data.model_copy(update={"sizes": dict(sizes)})
        return self.model_copy(update={"task": self.task.model_copy(update={"data": data})})

    def on_cluster(self, *, cpus: float, gpus: float) -> Self:
        """Fill in the resources by the cluster's processor cores and GPUs."""
        return self.model_copy(update={"resources": self.resources.settled(cpus=cpus, gpus=gpus)})

    def canonical(self) -> dict[str, Any]:
        """Return the spec as plain JSON values with every default written out."""
        return self.model_dump(mode="json")
