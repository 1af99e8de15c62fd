"""The job store: every change of a job and the event that tells of it, in one transaction.

Safe to use from any thread. Readers never wait. One server at a time may claim jobs from a database: an
interrupted job is known by its state alone, so a second claimer would take up a job that is running.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from sqlalchemy import Select, case, select
from sqlalchemy.orm import Session

from search.errors import ConflictError
from service.events import Event, EventType
from service.jobs import Job, JobError, JobState, new_job_id
from service.spec import JobSpec
from service.store import rows
from service.store.engine import new_engine, upgrade
from service.store.schema import CandidateRow, EventRow, GenerationRow, JobRow, SearchStateRow

Listener = Callable[[str], None]

_INTERRUPTED = tuple(state for state in JobState if state.interruptible)
Row = TypeVar("Row")


class Store:
    """Jobs and their history in a SQL database.

    Args:
        url: SQLAlchemy URL of a SQLite file or a PostgreSQL database. It is opened, and its schema
            brought up to date, at the first use or by `open`.
    """

    def __init__(self, url: str) -> None:
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
        error: JobError | None = None,
        result: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> Job:
        """Moves a job to another state and tells of it.

        Args:
            id: The job.
            to: The state to move to.
            error: Why it failed.
            result: What it achieved.
            data: More to say in the event.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: The job's state does not lead there, or it would succeed after its user
                was told that it will be cancelled.
        """
        with self._writing() as session:
            row = rows.find_job(session, id, lock=True)
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

    def claim_next(self) -> Job | None:
        """The next job to run, moved to preparing: an interrupted one first, else the oldest queued.

        Returns:
            The job, or None when there is nothing to run.
        """
        interrupted_first = case((JobRow.state == JobState.QUEUED.value, 1), else_=0)
        runnable = [state.value for state in (JobState.QUEUED, *_INTERRUPTED)]
        query = select(JobRow).where(JobRow.state.in_(runnable)).order_by(interrupted_first, JobRow.id)
        with self._writing() as session:
            row = session.scalars(query.limit(1).with_for_update()).first()
            if row is None:
                return None
            resumed = row.state != JobState.QUEUED.value
            rows.move(session, row, JobState.PREPARING, data={"resumed": True} if resumed else None)
            job = rows.job_of(row)
        self._tell(job.id)
        return job

    def append_event(self, id: str, type: EventType, data: Mapping[str, Any]) -> Event:
        """Adds an event to a job.

        Raises:
            NotFoundError: There is no such job.
        """
        with self._writing() as session:
            event = rows.append_event(session, rows.find_job(session, id, lock=True), type, data)
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
    ) -> Event:
        """Keeps a finished generation, all of it or nothing, and tells of it.

        Args:
            id: The job.
            record: The generation's summary; `generation` is its number.
            candidates: Its scorings, each with `generation`, `examples`, `genome`, `ranks`, `kept_share`, `kl_nats`,
                `drop_points`, `metric`, `tokens`, `seconds` and `failure`.
            search_state: What the search needs to go on from here.

        Raises:
            NotFoundError: There is no such job.
            ConflictError: The generation is there already.
        """
        with self._writing() as session:
            row = rows.find_job(session, id, lock=True)
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

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        self.open()
        with Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        self.open()
        with Session(self._writes, expire_on_commit=False) as session, session.begin():
            yield session

    def _tell(self, id: str) -> None:
        if self.listener is not None:
            self.listener(id)
