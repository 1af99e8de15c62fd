"""The job store: every change of a job, the event and the deliveries that tell of it, in one transaction.

Safe to use from any thread and from several servers. Readers never wait. How jobs come and go is
`service.store.submissions`, who runs them `service.store.claims`; here is what happens to them.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select

from ranksieve.search.errors import ConflictError
from ranksieve.service.job.changes import JobChanges
from ranksieve.service.job.events import Event, EventType
from ranksieve.service.job.job import Job, JobError, JobState, Request
from ranksieve.service.store import fronts, mapping
from ranksieve.service.store.base import Clock
from ranksieve.service.store.claims import Claims
from ranksieve.service.store.database import Database
from ranksieve.service.store.keys import Keys
from ranksieve.service.store.outbox import Outbox
from ranksieve.service.store.queries import View
from ranksieve.service.store.schema import EventRow, GenerationRow, JobRow, SearchStateRow
from ranksieve.service.store.submissions import Submissions
from ranksieve.service.store.times import database_time
from ranksieve.service.store.user_requests import ask

_TERMINAL = tuple(state for state in JobState if state.terminal)


class Store(Submissions, Claims):
    """Everybody's jobs and their history, API keys, webhooks. A method that raises has changed nothing.

    Args:
        url: As of `Database`.
        clock: Tells the time that leases are measured by.
    """

    def __init__(self, url: str, clock: Clock = database_time) -> None:
        super().__init__(Database(url), clock)
        self.keys = Keys(self.database)
        self.outbox = Outbox(self.database, clock)

    def open(self) -> None:
        """Bring the schema up to date, once; see `Database.open`."""
        self.database.open()

    def close(self) -> None:
        """Closes every idle connection."""
        self.database.close()

    def seen_by(self, owner: str | None) -> View:
        """What one owner may see of it; None for everything."""
        return View(self.database, owner)

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
            SupersededError: It was claimed again since, or deleted.
            ConflictError: The job's state does not lead there, or it would succeed after its user
                was told that it will be cancelled.
        """
        with self.database.writing() as session:
            row = mapping.find_held(session, id, epoch)
            to = JobState.STOPPING if to is JobState.SEARCHING and row.stop_requested else to
            mapping.check_move(row, to)
            if result is not None:
                row.result = dict(result)
            mapping.move(session, row, to, error=error, data=data)
            job = mapping.job_of(row)
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
            row = mapping.find_job(session, id, owner, lock=True)
            told = row.event_count
            ask(session, row, request, self._clock(session))
            job, news = mapping.job_of(row), row.event_count > told
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
        """Change a job's name, labels, priority or actors.

        A run of it takes new actors and a new priority when it next looks.

        Args:
            id: The job.
            changes: What to change.
            owner: Whose it has to be; None for anybody's.
            expect: Raises if the job is not as the caller thinks.

        Raises:
            NotFoundError: There is no such job.
            InputError: The changes do not go with the rest of its spec.
            ConflictError: The job has ended, so it has no actors.
        """
        with self.database.writing() as session:
            row = mapping.find_job(session, id, owner, lock=True)
            before = mapping.job_of(row)
            expect(before)
            spec = changes.applied_to(before.spec)
            if spec.resources != before.spec.resources and before.state.terminal:
                raise ConflictError(f"job {id} has ended: {before.state}; it needs no actors any more")
            if spec != before.spec:
                mapping.keep_spec(session, row, spec)
                mapping.append_event(session, row, EventType.JOB_CHANGED, changes.given())
            job = mapping.job_of(row)
        if job != before:
            self._tell(id)
        return job

    def count_jobs(self) -> dict[JobState, int]:
        """Everybody's jobs, by state; states without any are left out."""
        counts = select(JobRow.state, func.count()).group_by(JobRow.state)
        with self.database.reading() as session:
            return {JobState(state): count for state, count in session.execute(counts)}

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
            SupersededError: It was claimed again since `epoch`, or deleted.
        """
        with self.database.writing() as session:
            event = mapping.append_event(session, mapping.find_held(session, id, epoch), type, data)
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
            SupersededError: It was claimed again since, or deleted.
            ConflictError: The generation is there already.
        """
        with self.database.writing() as session:
            row = mapping.find_held(session, id, epoch)
            if session.get(GenerationRow, (id, record["generation"])) is not None:
                raise ConflictError(f"generation {record['generation']} of job {id} is already saved")
            session.add(GenerationRow(job_id=id, generation=record["generation"], record=dict(record)))
            scorings = [mapping.candidate_row(id, candidate) for candidate in candidates]
            session.add_all(scorings)
            session.flush()  # now they have ids
            full = mapping.search_examples(row)
            fronts.extend(
                session, id, record["generation"], [one for one in scorings if one.examples == full]
            )
            session.merge(SearchStateRow(job_id=id, state=dict(search_state)))
            row.faults = 0
            event = mapping.append_event(session, row, EventType.GENERATION_COMPLETED, record)
        self._tell(id)
        return event
