"""Typed records of what happens to a job.

Events are for users; logs are for operators. What each type tells is in `api/http/schemas/events.py`.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class EventType(StrEnum):
    """Type of an event."""

    JOB_STATE = "job.state"
    JOB_CHANGED = "job.changed"
    DATA_LOADED = "data.loaded"
    MODEL_LOADED = "model.loaded"
    MODEL_TUNED = "model.tuned"
    PHASE_PROGRESS = "phase.progress"
    LATENCY_MEASURED = "latency.measured"
    DENSE_SCORED = "dense.scored"
    GENERATION_COMPLETED = "generation.completed"
    ACTOR_REPLACED = "actor.replaced"
    CLUSTER_NOTICE = "cluster.notice"
    CANDIDATE_FAILED = "candidate.failed"
    FINALIST_CONFIRMED = "finalist.confirmed"
    ARTIFACT_EXPORTED = "artifact.exported"
    ARTIFACT_VERIFIED = "artifact.verified"


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One event of one job.

    `seq` counts from 1 within the job, without gaps; `at` is UTC.
    """

    job_id: str
    seq: int
    type: EventType
    at: datetime
    data: dict[str, Any]
