"""Writes of running jobs; each passes the epoch of the claim."""

from collections.abc import Mapping, Sequence
from typing import Any

from ranksieve.search.errors import ConflictError
from ranksieve.service.job.events import Event, EventType
from ranksieve.service.job.job import Job, JobError, JobState
from ranksieve.service.store import fronts, mapping
from ranksieve.service.store.base import Base
from ranksieve.service.store.schema import GenerationRow, SearchStateRow


class Runs:
    """Writes of running jobs. Each shows the epoch of the claim that the job runs by."""

    def __init__(self, base: Base) -> None:
        self._base = base

    def transition(
        self,
        id: str,
        to: JobState,
        *,
        epoch: int,
        error: JobError | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> Job:
        """Move a job to another state and record the event.

        A search that should stop goes to state stopping.

        Args:
            id: The job.
            to: The state to move to.
            epoch: Epoch of the claim that it runs by.
            error: Reason of a failure.
            result: Result of a success.

        Raises:
            SupersededError: The job was claimed again since, or deleted.
            ConflictError: The move is not allowed, or the job would succeed after its user asked to cancel it.
        """
        with self._base.database.writing() as session:
            row = mapping.find_held(session, id, epoch)
            to = JobState.STOPPING if to is JobState.SEARCHING and row.stop_requested else to
            mapping.check_move(row, to)
            if result is not None:
                row.result = dict(result)
            mapping.move(session, row, to, error=error)
            job = mapping.job_of(row)
        self._base.notify(id)
        return job

    def append_event(self, id: str, type: EventType, data: Mapping[str, Any], *, epoch: int) -> Event:
        """Add an event to a job.

        Raises:
            SupersededError: The job was claimed again since `epoch`, or deleted.
        """
        with self._base.database.writing() as session:
            event = mapping.append_event(session, mapping.find_held(session, id, epoch), type, data)
        self._base.notify(id)
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
        """Save a finished generation and its event, all or nothing.

        Args:
            id: The job.
            record: The generation's summary; `generation` is its number.
            candidates: Its scorings, each with `generation`, `genome`, `ranks`, `kept_share`, `kl_nats`, `loss_nats`,
                `drop_points`, `drop_bound`, `metric`, `tokens`, `seconds` and `failure`.
            search_state: State from which the search can continue.
            epoch: Epoch of the claim that the job runs by.

        Raises:
            SupersededError: The job was claimed again since, or deleted.
            ConflictError: The generation is saved already.
        """
        with self._base.database.writing() as session:
            row = mapping.find_held(session, id, epoch)
            if session.get(GenerationRow, (id, record["generation"])) is not None:
                raise ConflictError(f"generation {record['generation']} of job {id} is already saved")
            session.add(GenerationRow(job_id=id, generation=record["generation"], record=dict(record)))
            scorings = [mapping.candidate_row(id, candidate) for candidate in candidates]
            session.add_all(scorings)
            session.flush()  # now they have ids
            fronts.extend(session, id, record["generation"], scorings)
            session.merge(SearchStateRow(job_id=id, state=dict(search_state)))
            row.faults = 0
            event = mapping.append_event(session, row, EventType.GENERATION_COMPLETED, record)
        self._base.notify(id)
        return event
