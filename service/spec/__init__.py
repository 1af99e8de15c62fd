"""Models of the job file, for YAML and for JSON over REST.

Holds what users decide; constants of the algorithm are in `service.policy`. Knows nothing of tensors, actors
or HTTP, and reads no file: `workers.preflight` and `service.pipeline.search_plan` check the rest before work starts.
"""

from ranksieve.service.spec.job import LONGEST_LABEL, EffortName, JobSpec, Labels, Name, ParentSpec, Priority
from ranksieve.service.spec.model import DtypeName, ModelSpec
from ranksieve.service.spec.objective import MaxDrop, Pareto, TargetBytes, TargetLatency, TargetParams
from ranksieve.service.spec.resources import Actors, ResourceSpec
from ranksieve.service.spec.search import MOST_SEEDS, ConstraintSpec, Evaluations, SearchSpec, SeedSpec
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
    "EffortName",
    "Evaluations",
    "HubDataset",
    "JobSpec",
    "KindName",
    "Labels",
    "MaxDrop",
    "ModelSpec",
    "Name",
    "ParentSpec",
    "Pareto",
    "Priority",
    "ResourceSpec",
    "SearchSpec",
    "SeedSpec",
    "SplitName",
    "Strict",
    "TargetBytes",
    "TargetLatency",
    "TargetParams",
    "TaskSpec",
]
