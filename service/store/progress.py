"""Phase that a job is in, from its events."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ranksieve.service.job.events import EventType
from ranksieve.service.store.schema import EventRow


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseProgress:
    """Phase that goes on, with `done` of `total` behind it.

    `left_s` is the time that the rest takes at the pace so far; None before there is a pace.
    """

    phase: str
    done: int
    total: int
    left_s: float | None


def under_way(session: Session, id: str) -> PhaseProgress | None:
    """Return the phase that a job is in; None between phases."""
    events = select(EventRow).where(EventRow.job_id == id)
    turns = EventRow.type.in_([EventType.JOB_STATE, EventType.PHASE_PROGRESS])
    last = session.scalar(events.where(turns).order_by(EventRow.seq.desc()).limit(1))
    if last is None or last.type != EventType.PHASE_PROGRESS or last.data["done"] >= last.data["total"]:
        return None
    state = select(func.coalesce(func.max(EventRow.seq), 0))
    state = state.where(EventRow.job_id == id, EventRow.type == EventType.JOB_STATE)
    of_phase = EventRow.data["phase"].as_string() == last.data["phase"]
    since = events.where(EventRow.seq > state.scalar_subquery(), of_phase)
    first = session.scalars(since.order_by(EventRow.seq).limit(1)).one()
    done, total = last.data["done"], last.data["total"]
    gained = done - first.data["done"]
    left_s = (last.at - first.at).total_seconds() / gained * (total - done) if gained > 0 else None
    return PhaseProgress(phase=last.data["phase"], done=done, total=total, left_s=left_s)
