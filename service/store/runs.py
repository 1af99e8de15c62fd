"""What the server that runs a job writes about it: states, events, generations."""

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
        with self._base.database.writing() as session:
            row = mapping.find_held(session, id, epoch)
            to = JobState.STOPPING if to is JobState.SEARCHING and row.stop_requested else to
            mapping.check_move(row, to)
            if result is not None:
                row.result = dict(result)
            mapping.move(session, row, to, error=error, data=data)
            job = mapping.job_of(row)
        self._base.notify(id)
        return job

    def append_event(self, id: str, type: EventType, data: Mapping[str, Any], *, epoch: int) -> Event:
        """Adds an event to a job.

        Raises:
            SupersededError: It was claimed again since `epoch`, or deleted.
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
        with self._base.database.writing() as session:
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
        self._base.notify(id)
        return event
