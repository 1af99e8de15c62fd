"""The job file: one pydantic model, the same in YAML on the command line and JSON over REST.

Knows nothing of tensors, actors or HTTP. Checks what can be checked without reading a file;
`workers.preflight` and `service.search_plan` check the rest before any work starts.
"""

from service.spec.job import LONGEST_LABEL, JobSpec, Labels, Name, ParentSpec, Priority
from service.spec.model import DtypeName, ModelSpec
from service.spec.objective import MaxDrop, Pareto, TargetBytes, TargetLatency, TargetParams
from service.spec.projection import FisherName, MethodName, ProjectionSpec, StorageName
from service.spec.resources import Actors, ResourceSpec
from service.spec.search import MOST_SEEDS, ConstraintSpec, Evaluations, Generations, SearchSpec, SeedSpec
from service.spec.strict import Strict
from service.spec.task import TASK_KINDS, DataSource, HubDataset, KindName, SplitName, TaskSpec

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
