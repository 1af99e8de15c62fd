"""The job store: every change of a job, the event and the deliveries that tell of it, in one transaction.

Safe to use from any thread and from several servers. Readers never wait. A job that runs is held by the server that
claimed it and keeps renewing its lease. Once the lease has run out, another server may claim the job: that
raises the job's epoch, and whatever the former holder, which may only have been slow, writes from then on is refused.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from sqlalchemy import case, delete, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from search.errors import ConflictError
from service.changes import JobChanges
from service.events import Event, EventType
from service.exports import Export
from service.ids import new_id
from service.jobs import Job, JobError, JobState, Request, check_deletable
from service.keys import ADMIN
from service.spec import JobSpec
from service.store import faults, fronts, limits, rows
from service.store.database import Database
from service.store.keys import Keys
from service.store.outbox import Outbox
from service.store.requests import ask
from service.store.schema import (
    CandidateRow,
    EventRow,
    FrontRow,
    GenerationRow,
    JobRow,
    LabelRow,
    OpenOutcomesRow,
    RemovalRow,
    SearchStateRow,
    WebhookRow,
)
from service.store.view import View

Listener = Callable[[str], None]
Clock = Callable[[Session], datetime]

LEASE_S = 30.0
"""So long a server that falls silent keeps its job, in seconds."""

_OF_JOB = (SearchStateRow, OpenOutcomesRow, FrontRow, CandidateRow, GenerationRow, EventRow, LabelRow)
"""What goes with a job, whatever refers to something else first."""

_TERMINAL = tuple(state for state in JobState if state.terminal)
_INTERRUPTED = tuple(state for state in JobState if state.interruptible)


class Store(View):
    """Everybody's jobs and their history, API keys, webhooks. A method that raises has changed nothing.

    Args:
        url: SQLAlchemy URL of a SQLite file or a PostgreSQL database. It is opened, and its schema
            brought up to date, at the first use or by `open`.
        clock: Tells the time that leases are measured by.
    """

    def __init__(self, url: str, clock: Clock = rows.database_time) -> None:
        super().__init__(Database(url), owner=None)
        self.keys = Keys(self.database)
        self.outbox = Outbox(self.database, clock)
        self._clock = clock
        self.listener: Listener | None = None
        """Called with the job's id after each committed event, in the thread that committed it."""

    def open(self) -> None:
        """Brings the schema up to date, once.

        Raises:
            ConflictError: A newer version of the program has migrated this database.
            StoreError: It is not there, or must not be written to; tells which one, and what to do.
        """
        self.database.open()

    def close(self) -> None:
        """Closes every idle connection."""
        self.database.close()

    def seen_by(self, owner: str | None) -> View:
        """What one owner may see of it; None for everything."""
        return View(self.database, owner)

    def create_job(
        self,
        spec: JobSpec,
        owner: str = ADMIN,
        idempotency_key: str | None = None,
        submitted: JobSpec | None = None,
        most_queued: int | None = None,
    ) -> Job:
        """Queues a job of this owner's, or returns the one that was queued under the same key before.

        Args:
            spec: The job.
            owner: Whose it is.
            idempotency_key: What its owner calls this submission.
            submitted: The spec as its owner sent it, if that is another one.
            most_queued: So many of the owner's jobs may be queued; None for any number.

        Raises:
            ConflictError: The owner used the key for another spec.
            LimitError: The owner has so many queued jobs already.
        """
        try:
            return self._create_job(spec, owner, idempotency_key, submitted or spec, most_queued)
        except IntegrityError:
            # The same submission has come by another way in the same moment.
            if (
                idempotency_key is None
                or (job := self.submitted(submitted or spec, owner, idempotency_key)) is None
            ):
                raise
            return job

    def create_export(self, parent: Job, export: Export, most_queued: int | None = None) -> Job:
        """Queues the export of a candidate for the owner of its job, or returns the one that there is already.

        Args:
            parent: The job.
            export: The candidate.
            most_queued: So many of the owner's jobs may be queued; None for any number.

        Raises:
            NotFoundError: The job has gone.
            LimitError: Its owner has so many queued jobs already.
        """
        with self.database.writing() as session:
            rows.find_job(session, parent.id, lock=True)  # who asks at the same time waits here
            given_up = [JobState.FAILED.value, JobState.CANCELLED.value, JobState.CRASHED.value]
            of_job = select(JobRow).where(JobRow.parent == parent.id, JobRow.state.not_in(given_up))
            for row in session.scalars(of_job.where(JobRow.cancel_requested.is_(False))):
                if Export.from_json(row.export or {}).genome == export.genome:
                    return rows.job_of(row)
            if most_queued is not None:
                rows.require_room(session, parent.owner, most_queued)
            job = self._add_job(session, parent.spec, parent.owner, export=export)
        self._tell(job.id)
        return job

    def submitted(self, spec: JobSpec, owner: str, idempotency_key: str) -> Job | None:
        """The job that its owner submitted under this key, if there is one.

        Raises:
            ConflictError: It has another spec.
        """
        named = select(JobRow).where(JobRow.owner == owner, JobRow.idempotency_key == idempotency_key)
        with self.database.reading() as session:
            row = session.scalars(named).first()
            if row is not None and not _was_submitted(row, spec):
                raise ConflictError(
                    f"Idempotency-Key {idempotency_key!r} was used for job {row.id}, whose spec is another one; "
                    "give every submission a key of its own"
                )
            return None if row is None else rows.job_of(row)

    def _create_job(
        self,
        spec: JobSpec,
        owner: str,
        idempotency_key: str | None,
        submitted: JobSpec,
        most_queued: int | None,
    ) -> Job:
        with self.database.writing() as session:
            if most_queued is not None:
                rows.require_room(session, owner, most_queued)
            job = self._add_job(
                session, spec, owner, idempotency_key=idempotency_key, submission=_digest(submitted)
            )
        self._tell(job.id)
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
            created_at=rows.now(),
            event_count=0,
            parent=None if export is None else export.job,
            export=None if export is None else export.to_json(),
        )
        session.add(row)
        session.flush()  # the event and the labels refer to it
        session.add_all(rows.label_rows(row.id, spec.labels))
        rows.tell_state(session, row, {"state": JobState.QUEUED.value})
        return rows.job_of(row)

    def delete_job(self, id: str, owner: str | None = None) -> None:
        """Forgets a job that has ended, and all that happened to it; all that stays is that its files have to go.

        Args:
            id: The job.
            owner: Whose it has to be; None for anybody's.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: The job has not ended, or there are exports of it.
        """
        with self.database.writing() as session:
            row = rows.find_job(session, id, owner, lock=True)  # who asks for an export of it waits here
            check_deletable(id, JobState(row.state))
            export = session.scalars(select(JobRow.id).where(JobRow.parent == id).limit(1)).first()
            if export is not None:
                raise ConflictError(f"job {id} has an export, {export}, which goes first; delete it again")
            for table in _OF_JOB:
                session.execute(delete(table).where(table.job_id == id))
            session.delete(row)
            session.add(RemovalRow(job_id=id))

    def removals(self) -> list[str]:
        """The deleted jobs whose files are still to be removed."""
        with self.database.reading() as session:
            return list(session.scalars(select(RemovalRow.job_id).order_by(RemovalRow.job_id)))

    def removed(self, id: str) -> None:
        """Forgets a deleted job for good: its files have gone."""
        with self.database.writing() as session:
            session.execute(delete(RemovalRow).where(RemovalRow.job_id == id))

    def transition(
        self,
        id: str,
        to: JobState,
        *,
        epoch: int,
        error: JobError | None = None,
        result: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> Job:
        """Moves a job to another state and tells of it; a search that is to stop is in state stopping.

        Args:
            id: The job.
            to: The state to move to.
            epoch: That of the claim it runs by.
            error: Why it failed.
            result: What it achieved.
            data: More to say in the event.

        Raises:
            NotFoundError: There is no such job.
            SupersededError: It was claimed again since.
            ConflictError: The job's state does not lead there, or it would succeed after its user
                was told that it will be cancelled.
        """
        with self.database.writing() as session:
            row = rows.find_held(session, id, epoch)
            to = JobState.STOPPING if to is JobState.SEARCHING and row.stop_requested else to
            rows.check_move(row, to)
            if result is not None:
                row.result = dict(result)
            rows.move(session, row, to, error=error, data=data)
            job = rows.job_of(row)
        self._tell(id)
        return job

    def request(self, id: str, request: Request, owner: str | None = None) -> Job:
        """Does what a job's user asks at once where nobody holds it; else marks it, and whoever runs it does so.

        Args:
            id: The job.
            request: What is asked; asked again, it makes no difference.
            owner: Whose it has to be; None for anybody's.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: It makes no sense in the job's state.
        """
        with self.database.writing() as session:
            row = rows.find_job(session, id, owner, lock=True)
            told = row.event_count
            ask(session, row, request, self._clock(session))
            job, news = rows.job_of(row), row.event_count > told
        if news:
            self._tell(id)
        return job

    def change(
        self,
        id: str,
        changes: JobChanges,
        owner: str | None = None,
        expect: Callable[[Job], None] = lambda job: None,
    ) -> Job:
        """Changes a job, and tells of it. Whoever runs it hears of its new actors or priority when it looks.

        New limits of a search that runs end its run: whoever holds the job may write no more, and it goes on from its
        last saved generation. What is scored since then is scored again.

        Args:
            id: The job.
            changes: What to change.
            owner: Whose it has to be; None for anybody's.
            expect: Raises if the job is not as the caller thinks.

        Raises:
            NotFoundError: There is no such job.
            InputError: The changes do not go with the rest of its spec.
            ConflictError: The job has ended, so it has no actors; or the limits of its search cannot be changed any
                more.
        """
        with self.database.writing() as session:
            row = rows.find_job(session, id, owner, lock=True)
            before = rows.job_of(row)
            expect(before)
            spec = changes.applied_to(before.spec)
            if spec.resources != before.spec.resources and before.state.terminal:
                raise ConflictError(f"job {id} has ended: {before.state}; it needs no actors any more")
            if spec.search != before.spec.search:
                limits.change(session, row, spec)
            if spec != before.spec:
                rows.keep_spec(session, row, spec)
                rows.append_event(session, row, EventType.JOB_CHANGED, changes.given())
            job = rows.job_of(row)
        if job != before:
            self._tell(id)
        return job

    def claim_next(self, lease_s: float = LEASE_S) -> Job | None:
        """The next job to run, moved to validating: of the highest priority, one cut off, an export, or the oldest.

        A job whose servers fell silent `FAULTS` times in a row, without saving a generation, crashes; one that is to be
        cancelled is cancelled.

        Args:
            lease_s: So long the job is the caller's, in seconds, if the lease is not renewed.

        Returns:
            The job, with the epoch that the caller's writes have to show; None when there is nothing to run.
        """
        queued = JobRow.state == JobState.QUEUED.value
        first = case(
            (queued & JobRow.parent.is_(None), 2), (queued, 1), else_=0
        )  # exports take minutes, jobs hours
        runnable = [state.value for state in (JobState.QUEUED, *_INTERRUPTED)]
        order = (JobRow.priority.desc(), first, JobRow.id)
        query = select(JobRow).where(JobRow.state.in_(runnable)).order_by(*order)
        with self.database.writing() as session:
            now = self._clock(session)
            free = query.where(or_(JobRow.leased_until.is_(None), JobRow.leased_until <= now))
            # A row that somebody is changing is left alone: another claimer takes it, or its user cancels it.
            next_free, ended = free.limit(1).with_for_update(skip_locked=True), []
            while (row := session.scalars(next_free).first()) and not faults.take_over(session, row):
                ended.append(row.id)
            if row is not None:
                resumed = row.started_at is not None
                row.epoch += 1
                row.leased_until = now + timedelta(seconds=lease_s)
                rows.move(session, row, JobState.VALIDATING, data={"resumed": True} if resumed else None)
            job = None if row is None else rows.job_of(row)
        for id in [*ended, *([] if job is None else [job.id])]:
            self._tell(id)
        return job

    def put_back(self, id: str, error: JobError, *, epoch: int, retry_s: float = faults.RETRY_S) -> Job:
        """Puts a job that the machine cut off back into the queue, for a while; too many faults in a row crash it.

        One that its user has asked to cancel is cancelled.

        Args:
            id: The job.
            error: What happened, for its user.
            epoch: That of the claim it ran by; its holder may write no more.
            retry_s: It may be claimed again after so long, in seconds; twice as long after every further fault.

        Raises:
            NotFoundError: There is no such job.
            SupersededError: It was claimed again since `epoch`.
            ConflictError: It is not being run.
        """
        with self.database.writing() as session:
            row = rows.find_held(session, id, epoch)
            rows.check_move(row, JobState.QUEUED)
            faults.wait_or_crash(session, row, error, self._clock(session), retry_s)
            job = rows.job_of(row)
        self._tell(id)
        return job

    def renew(self, id: str, lease_s: float = LEASE_S, *, epoch: int) -> Job:
        """Keeps a job the caller's for another `lease_s` seconds; returns it as it is now.

        Raises:
            NotFoundError: There is no such job.
            SupersededError: It was claimed again since `epoch`.
        """
        with self.database.writing() as session:
            row = rows.find_held(session, id, epoch)
            if not JobState(row.state).terminal:
                row.leased_until = self._clock(session) + timedelta(seconds=lease_s)
            return rows.job_of(row)

    def release(self, id: str, *, epoch: int) -> None:
        """Gives a job up as it stands; it can be claimed at once, and the caller may write no more.

        Raises:
            NotFoundError: There is no such job.
            SupersededError: It was claimed again since `epoch`.
        """
        with self.database.writing() as session:
            row = rows.find_held(session, id, epoch)
            row.epoch += 1
            row.leased_until = None

    def count_jobs(self) -> dict[JobState, int]:
        """Everybody's jobs, by state; states without any are left out."""
        counts = select(JobRow.state, func.count()).group_by(JobRow.state)
        with self.database.reading() as session:
            return {JobState(state): count for state, count in session.execute(counts)}

    def idle(self, ids: Collection[str]) -> set[str]:
        """Those of these jobs that nobody runs, or was cut off from: what such a job was about it begins anew."""
        known = select(JobRow.id).where(JobRow.id.in_(ids))
        with self.database.reading() as session:
            return set(
                session.scalars(known.where(JobRow.state.not_in([state.value for state in _INTERRUPTED])))
            )

    def release_all(self) -> None:
        """Ends every lease: for a server that knows that it is the only one on this database."""
        leased = update(JobRow).where(JobRow.leased_until.is_not(None))
        cut_off = case((JobRow.state.in_([state.value for state in _INTERRUPTED]), 1), else_=0)
        with self.database.writing() as session:
            session.execute(
                leased.values(leased_until=None, epoch=JobRow.epoch + 1, faults=JobRow.faults + cut_off)
            )
            session.execute(update(WebhookRow).values(busy_until=None))

    def forget_events(self, older_than: timedelta) -> int:
        """Deletes the events of jobs that ended for good longer ago than this; returns how many.

        A job's next `seq` stays, and so does what a crashed job knows of itself, for it may be resumed.
        """
        with self.database.writing() as session:
            ended = select(JobRow.id).where(
                JobRow.state.in_([state.value for state in _TERMINAL]),
                JobRow.finished_at < self._clock(session) - older_than,
            )
            gone = session.execute(delete(EventRow).where(EventRow.job_id.in_(ended)))
            return int(getattr(gone, "rowcount", 0))

    def append_event(self, id: str, type: EventType, data: Mapping[str, Any], *, epoch: int) -> Event:
        """Adds an event to a job.

        Raises:
            NotFoundError: There is no such job.
            SupersededError: It was claimed again since `epoch`.
        """
        with self.database.writing() as session:
            event = rows.append_event(session, rows.find_held(session, id, epoch), type, data)
        self._tell(id)
        return event

    def save_generation(
        self,
        id: str,
        record: Mapping[str, Any],
        candidates: Sequence[Mapping[str, Any]],
        search_state: Mapping[str, Any],
        *,
        epoch: int,
    ) -> Event:
        """Keeps a finished generation, all of it or nothing, and tells of it.

        Args:
            id: The job.
            record: The generation's summary; `generation` is its number.
            candidates: Its scorings, each with `generation`, `examples`, `genome`, `ranks`, `kept_share`, `kl_nats`,
                `drop_points`, `metric`, `tokens`, `seconds` and `failure`.
            search_state: What the search needs to go on from here.
            epoch: That of the claim the job runs by.

        Raises:
            NotFoundError: There is no such job.
            SupersededError: It was claimed again since.
            ConflictError: The generation is there already.
        """
        with self.database.writing() as session:
            row = rows.find_held(session, id, epoch)
            if session.get(GenerationRow, (id, record["generation"])) is not None:
                raise ConflictError(f"generation {record['generation']} of job {id} is already saved")
            session.add(GenerationRow(job_id=id, generation=record["generation"], record=dict(record)))
            scorings = [rows.candidate_row(id, candidate) for candidate in candidates]
            session.add_all(scorings)
            session.flush()  # now they have ids
            full = rows.search_examples(row)
            fronts.extend(
                session, id, record["generation"], [one for one in scorings if one.examples == full]
            )
            session.merge(SearchStateRow(job_id=id, state=dict(search_state)))
            row.faults = 0
            event = rows.append_event(session, row, EventType.GENERATION_COMPLETED, record)
        self._tell(id)
        return event

    def keep_open_outcomes(self, id: str, outcomes: Sequence[Mapping[str, Any]], *, epoch: int) -> None:
        """Keeps what the open generations of a search have scored, in place of what was kept before.

        Raises:
            NotFoundError: There is no such job.
            SupersededError: It was claimed again since `epoch`.
        """
        with self.database.writing() as session:
            rows.find_held(session, id, epoch)
            session.merge(OpenOutcomesRow(job_id=id, outcomes=[dict(outcome) for outcome in outcomes]))

    def _tell(self, id: str) -> None:
        if self.listener is not None:
            self.listener(id)


def _digest(spec: JobSpec) -> str:
    return sha256(json.dumps(spec.canonical(), sort_keys=True).encode()).hexdigest()


def _was_submitted(row: JobRow, spec: JobSpec) -> bool:
    """Whether a job was made of this spec; of jobs that earlier versions took only the spec itself is known."""
    return row.spec == spec.canonical() if row.submission is None else row.submission == _digest(spec)
