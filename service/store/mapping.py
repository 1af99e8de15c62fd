"""Conversions of rows and values, and steps shared by several transactions.

Commits nothing.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Row, delete, func, select
from sqlalchemy.orm import Session

from ranksieve.search.errors import ConflictError, LimitError, NotFoundError, StoreError, SupersededError
from ranksieve.service.job.events import Event, EventType
from ranksieve.service.job.export import Export
from ranksieve.service.job.job import TRANSITIONS, Job, JobError, JobState
from ranksieve.service.spec import JobSpec
from ranksieve.service.store.outbox import announce
from ranksieve.service.store.schema import CandidateRow, EventRow, JobRow, LabelRow
from ranksieve.service.store.times import now
from ranksieve.service.webhooks.messages import job_message

CANDIDATE_FIELDS = tuple(
    column.key for column in CandidateRow.__table__.columns if column.key not in ("id", "job_id")
)

ROOM_AFTER_S = 60
"""Wait before an owner with too many queued jobs should try again, in seconds.

Jobs take minutes.
"""


def find_job(session: Session, job_id: str, owner: str | None = None, *, lock: bool = False) -> JobRow:
    """Return a job's row; with `lock`, locked until this transaction ends.

    Raises:
        NotFoundError: There is no such job, or it belongs to another owner.
    """
    # PostgreSQL refuses queries for text that it cannot store.
    row = session.get(JobRow, job_id, with_for_update=True if lock else None) if job_id.isalnum() else None
    if row is None or owner not in (None, row.owner):
        raise NotFoundError(f"there is no job {job_id!r}")
    return row


def require_room(session: Session, owner: str, most_queued: int) -> None:
    """Check that an owner may queue one more job.

    PostgreSQL may let a few through that arrive at the same moment.

    Raises:
        LimitError: The owner has `most_queued` queued jobs already.
    """
    queued = select(func.count()).where(JobRow.owner == owner, JobRow.state == JobState.QUEUED.value)
    if session.execute(queued).scalar_one() >= most_queued:
        raise LimitError(
            f"{owner} has {most_queued} queued jobs, the most this server takes of one owner; "
            "wait until some have run, or cancel them",
            retry_after_s=ROOM_AFTER_S,
        )


def find_held(session: Session, job_id: str, epoch: int) -> JobRow:
    """Return a job's row for its holder to change, locked until the transaction ends.

    Raises:
        SupersededError: The job was claimed again since `epoch`, or deleted.
    """
    try:
        row = find_job(session, job_id, lock=True)
    except NotFoundError:
        raise SupersededError(f"job {job_id} was taken over or ended by others, and deleted") from None
    if row.epoch != epoch:
        raise SupersededError(
            f"job {job_id} was taken over or changed: it is at epoch {row.epoch}, its former holder's is {epoch}"
        )
    return row


def append_event(session: Session, row: JobRow, type: EventType, data: Mapping[str, Any]) -> Event:
    """Add the next event of a job whose row is locked."""
    row.event_count += 1
    event = EventRow(job_id=row.id, seq=row.event_count, type=type.value, at=now(), data=dict(data))
    session.add(event)
    return event_of(event)


def tell_state(session: Session, row: JobRow, data: Mapping[str, Any]) -> None:
    """Add the event of a job's new state and its deliveries; the row is locked."""
    event = append_event(session, row, EventType.JOB_STATE, data)
    announce(session, row.owner, JobState(row.state), lambda: job_message(job_of(row), event))


def label_rows(job_id: str, labels: Mapping[str, str]) -> list[LabelRow]:
    """Return rows for the labels of a job, without those that hold a NUL.

    PostgreSQL cannot store NUL.
    """
    return [
        LabelRow(job_id=job_id, name=name, value=value)
        for name, value in labels.items()
        if "\0" not in name + value
    ]


def keep_spec(session: Session, row: JobRow, spec: JobSpec) -> None:
    """Replace the spec of a job."""
    row.spec, row.priority = spec.canonical(), spec.priority
    session.execute(delete(LabelRow).where(LabelRow.job_id == row.id))
    session.add_all(label_rows(row.id, spec.labels))


def check_move(row: JobRow, to: JobState) -> None:
    """Check that the job may move to a state.

    Raises:
        ConflictError: The move is not allowed, or the job would succeed after its user asked to cancel it.
    """
    state = JobState(row.state)
    if to not in TRANSITIONS[state]:
        expected = ", ".join(sorted(TRANSITIONS[state])) or "nothing, it has ended"
        raise ConflictError(f"job {row.id} is {state}: next can be {expected}; got {to}")
    if to is JobState.SUCCEEDED and row.cancel_requested:
        raise ConflictError(f"job {row.id} cannot succeed: its user asked to cancel it")


def move(
    session: Session,
    row: JobRow,
    to: JobState,
    *,
    error: JobError | None = None,
    data: Mapping[str, Any] | None = None,
) -> None:
    """Change the state of a job whose row is locked, and add its event."""
    row.state = to.value
    if to is JobState.VALIDATING and row.started_at is None:
        row.started_at = now()
    if to in (JobState.QUEUED, JobState.PAUSED, JobState.CRASHED, JobState.CANCELLED):
        row.epoch += 1  # the former holder may write no more
    if to is JobState.PAUSED or to.ended:
        row.pause_requested = False
    if to.ended:
        row.finished_at = now()
    if to.ended or to in (JobState.QUEUED, JobState.PAUSED):
        row.leased_until = None
    details: dict[str, Any] = {"state": to.value, **(data or {})}
    if error is not None:
        row.error = details["error"] = error.as_json()
    tell_state(session, row, details)


def apply_marks(session: Session, row: JobRow) -> bool:
    """Cancel or pause a job that is not running, if requested; return whether it was."""
    if not (row.cancel_requested or row.pause_requested):
        return False
    move(session, row, JobState.CANCELLED if row.cancel_requested else JobState.PAUSED)
    return True


def job_of(row: JobRow) -> Job:
    """Return the job that a row holds.

    Raises:
        StoreError: The stored spec is not valid, such as one of another version of the program.
    """
    try:
        spec = JobSpec.model_validate(row.spec)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("spec", *first["loc"])))
        raise StoreError(
            f"job {row.id} cannot be read: its stored {where} is not valid ({first['msg']}); run the ranksieve that "
            "stored it, or give another RANKSIEVE_DATA_DIR or RANKSIEVE_DATABASE_URL"
        ) from error
    return Job(
        id=row.id,
        owner=row.owner,
        name=spec.name,
        labels=spec.labels,
        spec=spec,
        state=JobState(row.state),
        cancel_requested=row.cancel_requested,
        pause_requested=row.pause_requested,
        stop_requested=row.stop_requested,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        error=None if row.error is None else JobError(**row.error),
        result=row.result,
        epoch=row.epoch,
        faults=row.faults,
        export=None if row.export is None else Export.from_json(row.export),
    )


def event_of(row: EventRow | Row[Any]) -> Event:
    """Return the event that a row holds.

    A plain row of its columns will do, which costs a fraction when there are many.
    """
    return Event(job_id=row.job_id, seq=row.seq, type=EventType(row.type), at=row.at, data=row.data)


def candidate_row(job_id: str, candidate: Mapping[str, Any]) -> CandidateRow:
    """Return a row for a scoring; `genome` may be any sequence of levels.

    Raises:
        KeyError: A field is missing.
    """
    values = {field: candidate[field] for field in CANDIDATE_FIELDS}
    values["genome"] = list(values["genome"])
    if values["failure"] is not None:
        values["failure"] = values["failure"].replace(
            "\0", "\N{REPLACEMENT CHARACTER}"
        )  # PostgreSQL refuses NUL
    return CandidateRow(job_id=job_id, **values)
