"""View of one owner on the store; every query goes through its filter."""

from collections.abc import Collection, Iterable
from typing import Any, TypeVar, TypeVarTuple

from sqlalchemy import Select, func, or_, select, tuple_

from ranksieve.search.errors import GoneError, InputError, NotFoundError
from ranksieve.service.job.events import Event, EventType
from ranksieve.service.job.job import Job, JobState
from ranksieve.service.store import fronts, mapping
from ranksieve.service.store.database import Database
from ranksieve.service.store.progress import PhaseProgress, under_way
from ranksieve.service.store.schema import (
    CandidateRow,
    EventRow,
    GenerationRow,
    JobRow,
    LabelRow,
    SearchStateRow,
)
from ranksieve.service.store.webhooks import Webhooks

Row = TypeVar("Row")
Columns = TypeVarTuple("Columns")

# Columns, not rows of the mapper: many are read at once, and nobody changes them.
_COLUMNS = CandidateRow.__table__.columns
_FIELDS = [_COLUMNS[name] for name in mapping.CANDIDATE_FIELDS]
_SCORING = select(CandidateRow.id, *_FIELDS)


class View:
    """Jobs of one owner, their history, and the webhooks.

    Those of other owners do not exist in it.

    Methods that take the id of a job raise NotFoundError if there is no such job.

    Args:
        database: Database of the jobs.
        owner: Owner whose jobs are visible; None: all.
    """

    def __init__(self, database: Database, owner: str | None) -> None:
        self.database = database
        self.webhooks = Webhooks(database, owner)
        self._owner = owner

    def job(self, id: str) -> Job:
        """Return one job."""
        with self.database.reading() as session:
            return mapping.job_of(mapping.find_job(session, id, self._owner))

    def jobs(
        self,
        *,
        states: Iterable[JobState] = (),
        labels: Iterable[str] = (),
        search: str = "",
        limit: int = 50,
        after: str | None = None,
    ) -> list[Job]:
        """Return a page of jobs, newest first, without exports.

        `exports` returns the exports of a job.

        Args:
            states: States of the jobs to return; empty: all.
            labels: Labels that the jobs must have, each `name:value`; both parts may hold colons.
            search: Part of the jobs' name or owner in any case, or the beginning of their id.
            limit: Most jobs to return.
            after: Id of the last job of the page before.

        Raises:
            InputError: `after` is no id, or a label holds a NUL.
        """
        query = self._own(
            select(JobRow).where(JobRow.parent.is_(None)).order_by(JobRow.id.desc()).limit(limit)
        )
        if wanted := [state.value for state in states]:
            query = query.where(JobRow.state.in_(wanted))
        for label in labels:
            query = query.where(JobRow.id.in_(_labelled(label)))
        if search:
            name = JobRow.spec["name"].as_string()
            parts = [column.icontains(search, autoescape=True) for column in (name, JobRow.owner)]
            query = query.where(or_(*parts, JobRow.id.startswith(search, autoescape=True)))
        if after is not None:
            if not after.isalnum():
                raise InputError("after", f"must be the id of a job; got {after!r}")
            query = query.where(JobRow.id < after)
        with self.database.reading() as session:
            return [mapping.job_of(row) for row in session.scalars(query)]

    def count_jobs(self) -> dict[JobState, int]:
        """Return the number of jobs by state, without states that have none."""
        counts = self._own(select(JobRow.state, func.count())).group_by(JobRow.state)
        with self.database.reading() as session:
            return {JobState(state): count for state, count in session.execute(counts)}

    def exports(self, id: str) -> list[Job]:
        """Return the exports of a job, newest first."""
        query = select(JobRow).where(JobRow.parent == id).order_by(JobRow.id.desc())
        return [mapping.job_of(row) for row in self._rows_of(id, query)]

    def candidate(self, id: str, candidate: int) -> dict[str, Any]:
        """Return one scoring of a job, by its own id.

        Raises:
            NotFoundError: There is no such candidate.
        """
        found = self._values_of(id, _SCORING.where(CandidateRow.job_id == id, CandidateRow.id == candidate))
        if not found:
            raise NotFoundError(
                f"job {id} has no candidate {candidate}; `candidates` lists them with their ids"
            )
        return found[0]

    def events(
        self, id: str, *, after: int = 0, limit: int = 500, types: Collection[EventType] = ()
    ) -> list[Event]:
        """Return a page of a job's events; see `follow`."""
        return self.follow(id, after=after, limit=limit, types=types)[0]

    def follow(
        self, id: str, *, after: int = 0, limit: int = 500, types: Collection[EventType] = ()
    ) -> tuple[list[Event], bool]:
        """Return a page of a job's events, oldest first, and whether the job has ended.

        If it has ended, no event follows a page that is not full.

        Args:
            id: The job.
            after: `seq` of the last event already seen.
            limit: Most events to return.
            types: Types of the events to return; empty: all.

        Raises:
            GoneError: The event after `after` was deleted, so the page would leave a gap.
        """
        later = select(*EventRow.__table__.columns).where(EventRow.job_id == id, EventRow.seq > after)
        wanted = later.where(EventRow.type.in_(types)) if types else later
        with self.database.reading() as session:
            # Read before the page: the end of a job is committed with its event, and the count may be behind the page.
            row = mapping.find_job(session, id, self._owner)
            ended, count = JobState(row.state).ended, row.event_count
            page = [
                mapping.event_of(row) for row in session.execute(wanted.order_by(EventRow.seq).limit(limit))
            ]
            first = session.scalar(later.with_only_columns(func.min(EventRow.seq))) or count + 1
        if first > after + 1:
            raise GoneError(
                f"events up to {first - 1} of job {id} are past retention; go on after={first - 1}"
            )
        return page, ended

    def last_event(self, id: str, type: EventType) -> Event | None:
        """Return the newest event of one type, or None."""
        query = select(EventRow).where(EventRow.job_id == id, EventRow.type == type.value)
        found = self._rows_of(id, query.order_by(EventRow.seq.desc()).limit(1))
        return mapping.event_of(found[0]) if found else None

    def progress(self, id: str) -> PhaseProgress | None:
        """Return the phase that a job is in; None between phases."""
        with self.database.reading() as session:
            mapping.find_job(session, id, self._owner)
            return under_way(session, id)

    def generations(self, id: str, *, after: int = -1, limit: int = 1000) -> list[dict[str, Any]]:
        """Return a page of a job's generation records, oldest first.

        Args:
            id: The job.
            after: Number of the last generation already seen.
            limit: Most records to return.
        """
        query = select(GenerationRow.record).where(GenerationRow.job_id == id)
        query = query.where(GenerationRow.generation > after).order_by(GenerationRow.generation).limit(limit)
        return self._rows_of(id, query)

    def candidates(
        self,
        id: str,
        *,
        limit: int = 100,
        generation: int | None = None,
        after: int | None = None,
        fields: Iterable[str] = (),
    ) -> list[dict[str, Any]]:
        """Return a page of a job's scorings with their `id`, in the order of saving.

        Args:
            id: The job.
            limit: Most scorings to return.
            generation: Generation of the scorings; None: all.
            after: Id of the last scoring of the page before.
            fields: Names of the fields to return, in this order; empty: all. `genome` and `ranks` have a number for
                each matrix.

        Raises:
            NotFoundError: There is no scoring `after`.
        """
        query = _scorings_of(id).limit(limit)
        if generation is not None:
            query = query.where(CandidateRow.generation == generation)
        if after is not None:
            last = self.candidate(id, after)["generation"]  # ids grow with generations; the index knows those
            query = query.where(CandidateRow.generation >= last, CandidateRow.id > after)
        return self._values_of(id, _only(query, fields))

    def front(
        self,
        id: str,
        *,
        limit: int | None = None,
        generation: int | None = None,
        last: int | None = None,
        fields: Iterable[str] = (),
    ) -> list[dict[str, Any]]:
        """Return a job's front, smallest first.

        These are its scorings that no smaller model's beats.

        Args:
            id: The job.
            limit: Most scorings to return; None for all.
            generation: Limits the scorings to those that this generation added; None: all.
            last: Chooses the front after this generation; None: the present one.
            fields: See `candidates`.
        """
        ids = fronts.members(id, generation=generation, last=last).limit(limit).subquery()
        query = _SCORING.join(ids, ids.c.candidate_id == CandidateRow.id).order_by(CandidateRow.kept_share)
        return self._values_of(id, _only(query, fields))

    def memo(self, id: str) -> list[dict[str, Any]]:
        """Return every scoring of a job, in the order they were saved."""
        return self._values_of(id, _scorings_of(id).with_only_columns(*_FIELDS))

    def search_state(self, id: str) -> dict[str, Any] | None:
        """Return the state saved with a job's last generation; None before the first."""
        found = self._rows_of(id, select(SearchStateRow).where(SearchStateRow.job_id == id))
        return found[0].state if found else None

    def _own(self, query: Select[*Columns]) -> Select[*Columns]:
        """Limit a query of jobs to the owner."""
        return query if self._owner is None else query.where(JobRow.owner == self._owner)

    def _rows_of(self, id: str, query: Select[Row]) -> list[Row]:
        with self.database.reading() as session:
            mapping.find_job(session, id, self._owner)
            return list(session.scalars(query))

    def _values_of(self, id: str, query: Select[Any]) -> list[dict[str, Any]]:
        with self.database.reading() as session:
            mapping.find_job(session, id, self._owner)
            return [dict(row) for row in session.execute(query).mappings()]


def _scorings_of(id: str) -> Select[Any]:
    """Return a query of a job's scorings in the order of saving, which is indexed."""
    return _SCORING.where(CandidateRow.job_id == id).order_by(CandidateRow.generation, CandidateRow.id)


def _only(query: Select[Any], fields: Iterable[str]) -> Select[Any]:
    """Return a query of scorings limited to some fields; none: as it is."""
    chosen = [_COLUMNS[name] for name in dict.fromkeys(fields)]
    return query.with_only_columns(*chosen) if chosen else query


def _labelled(label: str) -> Select[str]:
    """Return a query of the ids of jobs with a label.

    Any colon of the label may be the one between name and value.
    """
    if "\0" in label:  # PostgreSQL refuses queries for text that it cannot store
        raise InputError("label", f"must not hold NUL; got {label!r}")
    colons = [place for place, character in enumerate(label) if character == ":"]
    pairs = [(label[:colon], label[colon + 1 :]) for colon in colons]
    return select(LabelRow.job_id).where(tuple_(LabelRow.name, LabelRow.value).in_(pairs))
