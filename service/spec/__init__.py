"""The job file: one pydantic model, for YAML and for JSON over REST.

Knows nothing of tensors, actors or HTTP. Checks what can be checked without reading a file;
`workers.preflight` and `service.pipeline.search_plan` check the rest before any work starts.
"""

from ranksieve.service.spec.job import LONGEST_LABEL, JobSpec, Labels, Name, ParentSpec, Priority
from ranksieve.service.spec.model import DtypeName, ModelSpec
from ranksieve.service.spec.objective import MaxDrop, Pareto, TargetBytes, TargetLatency, TargetParams
from ranksieve.service.spec.projection import FisherName, MethodName, ProjectionSpec, StorageName
from ranksieve.service.spec.resources import Actors, ResourceSpec
from ranksieve.service.spec.search import (
    MOST_SEEDS,
    ConstraintSpec,
    Evaluations,
    Generations,
    SearchSpec,
    SeedSpec,
)
from ranksieve.service.spec.strict import Strict
from ranksieve.service.spec.task import TASK_KINDS, DataSource, HubDataset, KindName, SplitName, TaskSpec

__all__ = [
    "LONGEST_LABEL",
    "MOST_SEEDS",
    "TASK_KINDS",
    "Actors",
    "ConstraintSpec",
    "DataSource",
    "DtypeName",
    "Evaluations",
    "FisherName",
    "Generations",
    "HubDataset",
    "JobSpec",
    "KindName",
    "Labels",
    "MaxDrop",
    "MethodName",
    "ModelSpec",
    "Name",
    "ParentSpec",
    "Pareto",
    "Priority",
    "ProjectionSpec",
    "ResourceSpec",
    "SearchSpec",
    "SeedSpec",
    "SplitName",
    "StorageName",
    "Strict",
    "TargetBytes",
    "TargetLatency",
    "TargetParams",
    "TaskSpec",
]
