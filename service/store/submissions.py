"""Creation and deletion of jobs and exports."""

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ranksieve.search.errors import ConflictError, LimitError
from ranksieve.service.job.export import Export
from ranksieve.service.job.ids import new_id
from ranksieve.service.job.job import Job, JobState, check_deletable
from ranksieve.service.server.keys import ADMIN
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import mapping
from ranksieve.service.store.base import Base
from ranksieve.service.store.schema import (
    CandidateRow,
    EventRow,
    FrontRow,
    GenerationRow,
    JobRow,
    LabelRow,
    RemovalRow,
    SearchStateRow,
)
from ranksieve.service.store.times import now

_OF_JOB = (SearchStateRow, FrontRow, CandidateRow, GenerationRow, EventRow, LabelRow)
"""Tables to delete from with a job, referring tables first."""


class Submissions:
    """Creates jobs and exports, and deletes them."""

    def __init__(self, base: Base) -> None:
        self._base = base

    def create_job(
        self,
        spec: JobSpec,
        owner: str = ADMIN,
        idempotency_key: str | None = None,
        submitted: JobSpec | None = None,
        most_queued: int | None = None,
    ) -> Job:
        """Queue a job, or return the one queued before under the same key.

        Args:
            spec: The job.
            owner: Owner of the job.
            idempotency_key: The owner's name for this submission.
            submitted: The spec as its owner sent it, if it differs.
            most_queued: Most queued jobs of the owner; None: no limit.

        Raises:
            ConflictError: The owner used the key for another spec.
            LimitError: The owner has reached the limit of queued jobs.
        """
        try:
            return self._create_job(spec, owner, idempotency_key, submitted or spec, most_queued)
        except (IntegrityError, LimitError):
            # The same submission may have arrived twice at once, and have taken the last place.
            if (
                idempotency_key is None
                or (job := self.submitted(submitted or spec, owner, idempotency_key)) is None
            ):
                raise
            return job

    def create_export(self, parent: Job, export: Export, most_queued: int | None = None) -> Job:
        """Queue the export of a candidate, or return the one that exists already.

        The export belongs to the owner of the job.

        Args:
            parent: The job.
            export: The candidate.
            most_queued: Most queued jobs of the owner; None: no limit.

        Raises:
            NotFoundError: The job was deleted.
            LimitError: The owner has reached the limit of queued jobs.
        """
        with self._base.database.writing() as session:
            mapping.find_job(session, parent.id, lock=True)  # a simultaneous request waits here
            given_up = [JobState.FAILED.value, JobState.CANCELLED.value, JobState.CRASHED.value]
            exports = select(JobRow).where(JobRow.parent == parent.id, JobRow.state.not_in(given_up))
            for row in session.scalars(exports.where(JobRow.cancel_requested.is_(False))):
                if Export.from_json(row.export or {}).genome == export.genome:
                    return mapping.job_of(row)
            if most_queued is not None:
                mapping.require_room(session, parent.owner, most_queued)
            job = self._add_job(session, parent.spec, parent.owner, export=export)
        self._base.notify(job.id)
        return job

    def submitted(self, spec: JobSpec, owner: str, idempotency_key: str) -> Job | None:
        """Return the job that was submitted under this key, or None.

        Raises:
            ConflictError: The job has another spec.
        """
        named = select(JobRow).where(JobRow.owner == owner, JobRow.idempotency_key == idempotency_key)
        with self._base.database.reading() as session:
            row = session.scalars(named).first()
            if row is not None and row.submission != spec.digest():
                raise ConflictError(
                    f"Idempotency-Key {idempotency_key!r} was used for job {row.id}, whose spec is another one; "
                    "give every submission a key of its own"
                )
            return None if row is None else mapping.job_of(row)

    def _create_job(
        self,
        spec: JobSpec,
        owner: str,
        idempotency_key: str | None,
        submitted: JobSpec,
        most_queued: int | None,
    ) -> Job:
        with self._base.database.writing() as session:
            if most_queued is not None:
                mapping.require_room(session, owner, most_queued)
            job = self._add_job(
                session, spec, owner, idempotency_key=idempotency_key, submission=submitted.digest()
            )
        self._base.notify(job.id)
        return job

    @staticmethod
    def _add_job(
        session: Session,
        spec: JobSpec,
        owner: str,
        *,
        idempotency_key: str | None = None,
        submission: str | None = None,
        export: Export | None = None,
    ) -> Job:
        row = JobRow(
            id=new_id(),
            spec=spec.canonical(),
            owner=owner,
            idempotency_key=idempotency_key,
            submission=submission,
            priority=spec.priority,
            state=JobState.QUEUED.value,
            cancel_requested=False,
            created_at=now(),
            event_count=0,
            parent=None if export is None else export.job,
            export=None if export is None else export.to_json(),
        )
        session.add(row)
        session.flush()  # the event and the labels refer to it
        session.add_all(mapping.label_rows(row.id, spec.labels))
        mapping.tell_state(session, row, {"state": JobState.QUEUED.value})
        return mapping.job_of(row)

    def delete_job(self, id: str, owner: str | None = None) -> None:
        """Delete an ended job and its history, and record that its files must go.

        Args:
            id: The job.
            owner: Owner that the job must have; None: any.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: The job has not ended, or it has exports.
        """
        with self._base.database.writing() as session:
            row = mapping.find_job(session, id, owner, lock=True)  # a request for an export of it waits here
            check_deletable(id, JobState(row.state))
            export = session.scalars(select(JobRow.id).where(JobRow.parent == id).limit(1)).first()
            if export is not None:
                raise ConflictError(f"job {id} has an export, {export}, which goes first; delete it again")
            for table in _OF_JOB:
                session.execute(delete(table).where(table.job_id == id))
            session.delete(row)
            session.add(RemovalRow(job_id=id, deleted_at=self._base.clock(session)))
