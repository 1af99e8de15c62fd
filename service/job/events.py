"""Typed records of what happens to a job.

Events are for users; logs are for operators.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class EventType(StrEnum):
    """Types of events, each with the keys of its data."""

    JOB_STATE = "job.state"
    """state; error (code, message, field) of a failed or crashed job; retry_in_s with it if the job waits in the queue
    after a machine failure; resumed if the job continues after a restart, a pause or such a wait
    """
    JOB_CHANGED = "job.changed"
    """the changed fields: name, labels, priority, actors, search"""
    DATA_LOADED = "data.loaded"
    """splits (name → records), dropped_duplicates, digests (of all records and of each split), notes (on what these
    records cannot show)
    """
    MODEL_LOADED = "model.loaded"
    """matrices, block_params, total_params, digest (of the weights), dtype, device, factors (name of their folder in
    the cache: a digest of what made them)"""
    MODEL_TUNED = "model.tuned"
    """blocks (that stay; all for written answers), all_blocks; used (whether the tuned model is used); dense and helped
    (metric of the given model on the search split, as it is and with one number fitted to each choice)"""
    PHASE_PROGRESS = "phase.progress"
    """phase, done, total; of the phase `fetch` in MB"""
    LATENCY_MEASURED = "latency.measured"
    """table (curves of matrices, ranks, nanoseconds, dense_nanoseconds; other_nanoseconds), device, dtype, threads,
    workload, stretched, stretched_ranks, checked_nanoseconds, expected_nanoseconds; see `workers.cost.latency`"""
    DENSE_SCORED = "dense.scored"
    """split, metric, metric_name; helped (metric with one number added to each answer, where that helps: the reference
    of drops)"""
    GENERATION_COMPLETED = "generation.completed"
    """generation, target_share, kept_share, kl_nats, loss_nats, drop_points, metric, evaluations, tokens, accepted;
    loss_min, loss_avg, loss_max, loss_std (of the population)"""
    ACTOR_REPLACED = "actor.replaced"
    """actor, reason"""
    CANDIDATE_FAILED = "candidate.failed"
    """reason, generation"""
    FINALIST_CONFIRMED = "finalist.confirmed"
    """kept_share, drop_points, drop_low, drop_high, risk (null: the objective promises no drop)"""
    ARTIFACT_EXPORTED = "artifact.exported"
    """path, file_bytes"""
    ARTIFACT_VERIFIED = "artifact.verified"
    """metric, expected"""


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
