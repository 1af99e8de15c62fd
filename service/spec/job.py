"""Model of the whole job file, and demands of its parts on each other."""

import json
import unicodedata
from collections.abc import Collection, Mapping
from hashlib import sha256
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

_HIDDEN = frozenset({"Cc", "Cf", "Zl", "Zp"})
"""Unicode's categories of characters that change how others are shown: controls, directions, line breaks."""


def _plain(text: str) -> str:
    """Refuse names that show something else than they are, on a page or in a terminal."""
    hidden = next((char for char in text if unicodedata.category(char) in _HIDDEN), None)
    if hidden is not None:
        raise ValueError(
            f"must have no control, direction or other invisible characters; got U+{ord(hidden):04X} in {text!r}"
        )
    return text


Name = Annotated[str, Field(max_length=200), AfterValidator(_plain)]


def _short(labels: dict[str, str]) -> dict[str, str]:
    longest = max(map(len, [*labels, *labels.values()]), default=0)
    if longest > LONGEST_LABEL:
        raise ValueError(
            f"must have names and values of at most {LONGEST_LABEL} characters; got one of {longest}"
        )
    return labels


_Label = Annotated[str, AfterValidator(_plain)]
Labels = Annotated[dict[_Label, _Label], Field(max_length=100), AfterValidator(_short)]
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

    name: Name = Field("", description="Name of the job, and title of its model's card.")
    model: Model
    task: TaskSpec
    objective: Objective = Field(default_factory=MaxDrop)
    effort: EffortName = Field(
        "normal",
        description="Time against size. `quick`: no training and no search. `normal`: short training "
        "and a short search. `thorough`: more of both.",
    )
    seed: int = Field(
        0, ge=0, le=2**32 - 1, description="Seed of all randomness: splits, calibration and search."
    )
    bits: Literal[4] | None = Field(
        None,
        description="Bits of a weight in the exported files; needs the extra `quantize`. Factors, dense matrices, "
        "embeddings and head are rounded, and candidates are scored so: the promise and all numbers are of the files. "
        "Default: the working dtype.",
        json_schema_extra=ADVANCED,
    )
    labels: Labels = Field(
        default_factory=dict, description="Names and values to find jobs by.", json_schema_extra=ADVANCED
    )
    priority: Priority = Field(
        0,
        description="Of the jobs in the queue, the highest goes first. Above 0 needs a key of scope `admin`.",
        json_schema_extra=ADVANCED,
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

    def on_cluster(self, nodes: Collection[Mapping[str, float]]) -> Self:
        """Fill in the resources by the nodes, see `ResourceSpec.settled`."""
        return self.model_copy(update={"resources": self.resources.settled(nodes)})

    def canonical(self) -> dict[str, Any]:
        """Return the spec as plain JSON values with every default written out."""
        return self.model_dump(mode="json")

    def digest(self) -> str:
        """Return the SHA-256 of the canonical spec."""
        return sha256(json.dumps(self.canonical(), sort_keys=True).encode()).hexdigest()
