"""The job store: every change of a job and the event that tells of it, in one transaction.

Safe to use from any thread and from several servers. Readers never wait. A job that runs is its owner's, who
claimed it and keeps renewing a lease. Once the lease has run out, another server may claim the job: that
raises the job's epoch, and whatever the former owner, which may only have been slow, writes from then on is refused.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy import Engine, Select, case, or_, select, update
from sqlalchemy.exc import InterfaceError, OperationalError, TimeoutError
from sqlalchemy.orm import Session

from search.errors import ConflictError, StoreError
from service.events import Event, EventType
from service.jobs import Job, JobError, JobState, new_job_id
from service.spec import JobSpec
from service.store import rows
from service.store.engine import new_engine, upgrade
from service.store.schema import CandidateRow, EventRow, GenerationRow, JobRow, SearchStateRow

Listener = Callable[[str], None]
Clock = Callable[[Session], datetime]

LEASE_S = 30.0
"""So long an owner that falls silent keeps its job, in seconds."""

_INTERRUPTED = tuple(state for state in JobState if state.interruptible)
Row = TypeVar("Row")


class Store:
    """Jobs and their history in a SQL database.

    Args:
        url: SQLAlchemy URL of a SQLite file or a PostgreSQL database. It is opened, and its schema
            brought up to date, at the first use or by `open`.
        clock: Tells the time that leases are measured by.

    Raises:
        StoreError: The database failed; raised by every method, which then has changed nothing.
    """

    def __init__(self, url: str, clock: Clock = rows.database_time) -> None:
        self._clock = clock
        self._engine = new_engine(url)
        self._writes = self._engine.execution_options(writes=True)
        self._opening = threading.Lock()
        self._opened = False
        self.listener: Listener | None = None
        """Called with the job's id after each committed event, in the thread that committed it."""

    def open(self) -> None:
        """Brings the schema up to date, once.

        Raises:
            ConflictError: A newer version of the program has migrated this database.
        """
        with self._opening:
            if not self._opened:
                upgrade(self._engine)
                self._opened = True

    def close(self) -> None:
        """Closes every idle connection."""
        self._engine.dispose()

    def create_job(self, spec: JobSpec) -> Job:
        """Queues a job."""
        with self._writing() as session:
            row = JobRow(
                id=new_job_id(),
                spec=spec.canonical(),
                state=JobState.QUEUED.value,
                cancel_requested=False,
                created_at=rows.now(),
                event_count=0,
            )
            session.add(row)
            session.flush()  # the event refers to it
            rows.append_event(session, row, EventType.JOB_STATE, {"state": JobState.QUEUED.value})
            job = rows.job_of(row)
        self._tell(job.id)
        return job

    def job(self, id: str) -> Job:
        """One job.

        Raises:
            NotFoundError: There is no such job.
        """
        with self._reading() as session:
            return rows.job_of(rows.find_job(session, id))

    def jobs(self, *, state: JobState | None = None, limit: int = 50, after: str | None = None) -> list[Job]:
        """A page of jobs, newest first.

        Args:
            state: Only jobs in this state.
            limit: Most jobs to return.
            after: Id of the last job of the page before.
        """
        query = select(JobRow).order_by(JobRow.id.desc()).limit(limit)
        if state is not None:
            query = query.where(JobRow.state == state.value)
        if after is not None:
            query = query.where(JobRow.id < after)
        with self._reading() as session:
            return [rows.job_of(row) for row in session.scalars(query)]

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
        """Moves a job to another state and tells of it.

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
        with self._writing() as session:
            row = rows.find_owned(session, id, epoch)
            rows.check_move(row, to)
            if result is not None:
                row.result = dict(result)
            rows.move(session, row, to, error=error, data=data)
            job = rows.job_of(row)
        self._tell(id)
        return job

    def request_cancel(self, id: str) -> Job:
        """Cancels a queued job at once; marks a running one, which whoever runs it then ends.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: The job has ended.
        """
        with self._writing() as session:
            row = rows.find_job(session, id, lock=True)
            state = JobState(row.state)
            if state.terminal:
                raise ConflictError(f"job {id} has already ended: {state}; there is nothing to cancel")
            row.cancel_requested = True
            if state is JobState.QUEUED:
                rows.move(session, row, JobState.CANCELLED)
            job = rows.job_of(row)
        if job.state.terminal:
            self._tell(id)
        return job

    def claim_next(self, lease_s: float = LEASE_S) -> Job | None:
        """The next job to run, moved to preparing: one without an owner that was cut off first, else the oldest queued.

        Args:
            lease_s: So long the job is the caller's, in seconds, if the lease is not renewed.

        Returns:
            The job, with the epoch that the caller's writes have to show; None when there is nothing to run.
        """
        interrupted_first = case((JobRow.state == JobState.QUEUED.value, 1), else_=0)
        runnable = [state.value for state in (JobState.QUEUED, *_INTERRUPTED)]
        query = select(JobRow).where(JobRow.state.in_(runnable)).order_by(interrupted_first, JobRow.id)
        with self._writing() as session:
            now = self._clock(session)
            free = query.where(or_(JobRow.leased_until.is_(None), JobRow.leased_until <= now))
            # A row that somebody is changing is left alone: another claimer takes it, or its user cancels it.
            row = session.scalars(free.limit(1).with_for_update(skip_locked=True)).first()
            if row is None:
                return None
            resumed = row.state != JobState.QUEUED.value
            row.epoch += 1
            row.leased_until = now + timedelta(seconds=lease_s)
            rows.move(session, row, JobState.PREPARING, data={"resumed": True} if resumed else None)
            job = rows.job_of(row)
        self._tell(job.id)
        return job

    def renew(self, id: str, lease_s: float = LEASE_S, *, epoch: int) -> Job:
        """Keeps a job the caller's for another `lease_s` seconds; returns it as it is now.

        Raises:
            NotFoundError: There is no such job.
            SupersededError: It was claimed again since `epoch`.
        """
        with self._writing() as session:
            row = rows.find_owned(session, id, epoch)
            if not JobState(row.state).terminal:
                row.leased_until = self._clock(session) + timedelta(seconds=lease_s)
            return rows.job_of(row)

    def release(self, id: str, *, epoch: int) -> None:
        """Gives a job up as it stands; it can be claimed at once, and the caller may write no more.

        Raises:
            NotFoundError: There is no such job.
            SupersededError: It was claimed again since `epoch`.
        """
        with self._writing() as session:
            row = rows.find_owned(session, id, epoch)
            row.epoch += 1
            row.leased_until = None

    def release_all(self) -> None:
        """Ends every lease: for a server that knows that it is the only one on this database."""
        leased = update(JobRow).where(JobRow.leased_until.is_not(None))
        with self._writing() as session:
            session.execute(leased.values(leased_until=None, epoch=JobRow.epoch + 1))

    def append_event(self, id: str, type: EventType, data: Mapping[str, Any], *, epoch: int) -> Event:
        """Adds an event to a job.

        Raises:
            NotFoundError: There is no such job.
            SupersededError: It was claimed again since `epoch`.
        """
        with self._writing() as session:
            event = rows.append_event(session, rows.find_owned(session, id, epoch), type, data)
        self._tell(id)
        return event

    def events(self, id: str, *, after: int = 0, limit: int = 500) -> list[Event]:
        """A page of a job's events, oldest first.

        Args:
            id: The job.
            after: `seq` of the last event already seen.
            limit: Most events to return.

        Raises:
            NotFoundError: There is no such job.
        """
        query = select(EventRow).where(EventRow.job_id == id, EventRow.seq > after)
        return [rows.event_of(row) for row in self._rows_of(id, query.order_by(EventRow.seq).limit(limit))]

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
        with self._writing() as session:
            row = rows.find_owned(session, id, epoch)
            if session.get(GenerationRow, (id, record["generation"])) is not None:
                raise ConflictError(f"generation {record['generation']} of job {id} is already saved")
            session.add(GenerationRow(job_id=id, generation=record["generation"], record=dict(record)))
            session.add_all(rows.candidate_row(id, candidate) for candidate in candidates)
            session.merge(SearchStateRow(job_id=id, state=dict(search_state)))
            event = rows.append_event(session, row, EventType.GENERATION_COMPLETED, record)
        self._tell(id)
        return event

    def generations(self, id: str, *, after: int = -1, limit: int = 1000) -> list[dict[str, Any]]:
        """A page of a job's generation records, oldest first.

        Args:
            id: The job.
            after: Number of the last generation already seen.
            limit: Most records to return.

        Raises:
            NotFoundError: There is no such job.
        """
        query = select(GenerationRow).where(GenerationRow.job_id == id, GenerationRow.generation > after)
        query = query.order_by(GenerationRow.generation).limit(limit)
        return [row.record for row in self._rows_of(id, query)]

    def candidates(
        self, id: str, *, limit: int = 100, offset: int = 0, generation: int | None = None
    ) -> list[dict[str, Any]]:
        """A page of a job's scorings in the order they were saved.

        Args:
            id: The job.
            limit: Most scorings to return.
            offset: Scorings to skip.
            generation: Only those of this generation.

        Raises:
            NotFoundError: There is no such job.
        """
        query = select(CandidateRow).where(CandidateRow.job_id == id)
        if generation is not None:
            query = query.where(CandidateRow.generation == generation)
        query = query.order_by(CandidateRow.id).limit(limit).offset(offset)
        return [rows.candidate_of(row) for row in self._rows_of(id, query)]

    def memo(self, id: str) -> list[dict[str, Any]]:
        """Every scoring of a job, in the order they were saved.

        Raises:
            NotFoundError: There is no such job.
        """
        query = select(CandidateRow).where(CandidateRow.job_id == id).order_by(CandidateRow.id)
        return [rows.candidate_of(row) for row in self._rows_of(id, query)]

    def search_state(self, id: str) -> dict[str, Any] | None:
        """The state saved with a job's last generation, or None before the first.

        Raises:
            NotFoundError: There is no such job.
        """
        found = self._rows_of(id, select(SearchStateRow).where(SearchStateRow.job_id == id))
        return found[0].state if found else None

    def _rows_of(self, id: str, query: Select[Row]) -> list[Row]:
        with self._reading() as session:
            rows.find_job(session, id)
            return list(session.scalars(query))

    def _reading(self) -> AbstractContextManager[Session]:
        return self._session(self._engine)

    def _writing(self) -> AbstractContextManager[Session]:
        return self._session(self._writes)

    @contextmanager
    def _session(self, engine: Engine) -> Iterator[Session]:
        """One transaction: committed at the end of the block, undone by whatever is raised in it."""
        try:
            self.open()
            with Session(engine, expire_on_commit=False) as session, session.begin():
                yield session
        except (OperationalError, InterfaceError, TimeoutError) as error:
            # SQLAlchemy's own text holds the statement and its values.
            cause = getattr(error, "orig", None) or error
            raise StoreError(f"the job store failed: {type(cause).__name__}: {cause}") from error

    def _tell(self, id: str) -> None:
        if self.listener is not None:
            self.listener(id)
