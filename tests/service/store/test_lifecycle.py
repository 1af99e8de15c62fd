"""The life of jobs, checked against a simple model: servers come, go, fall silent and write with stale claims."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete

from search.errors import ConflictError, SupersededError
from service.events import EventType
from service.jobs import TRANSITIONS, Job, JobState
from service.spec import JobSpec
from service.store import Store
from service.store.schema import Base

LEASE_S = 10
RUNNING = [JobState.PREPARING, JobState.SEARCHING, JobState.FINALIZING]


@dataclass
class Model:
    """What a job should be."""

    state: JobState = JobState.QUEUED
    cancel_requested: bool = False
    epoch: int = 0
    leased_until: datetime | None = None
    events: int = 1
    generations: int = 0

    def claimable(self, now: datetime) -> bool:
        leased = self.leased_until is not None and self.leased_until > now
        return self.state is JobState.QUEUED or (self.state in RUNNING and not leased)


@dataclass
class World:
    """The models of all jobs, oldest first, and the time."""

    jobs: dict[str, Model] = field(default_factory=dict)
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def next_claimable(self) -> str | None:
        free = [id for id, job in self.jobs.items() if job.claimable(self.now)]
        return min(free, key=lambda id: self.jobs[id].state is JobState.QUEUED, default=None)


def lifecycle(make_store: Callable[[Any], Store], spec: JobSpec) -> type[RuleBasedStateMachine]:
    """A state machine over the stores that `make_store` makes for a clock."""

    class Lifecycle(RuleBasedStateMachine):
        jobs = Bundle("jobs")
        claims = Bundle("claims")

        def __init__(self) -> None:
            super().__init__()
            self.world = World()
            self.store = make_store(lambda session: self.world.now)

        def teardown(self) -> None:
            self.store.close()

        @rule(target=jobs)
        def submit(self) -> str:
            id = self.store.create_job(spec).id
            self.world.jobs[id] = Model()
            return id

        @rule(seconds=st.sampled_from([1, LEASE_S - 1, LEASE_S]))
        def wait(self, seconds: int) -> None:
            self.world.now += timedelta(seconds=seconds)

        @rule(target=claims)
        def claim(self) -> Any:
            expected, job = self.world.next_claimable(), self.store.claim_next(LEASE_S)
            assert (None if job is None else job.id) == expected
            if job is None:
                return multiple()
            model = self.world.jobs[job.id]
            model.state, model.epoch = JobState.PREPARING, model.epoch + 1
            model.leased_until = self.world.now + timedelta(seconds=LEASE_S)
            model.events += 1
            assert job.epoch == model.epoch
            return job

        @rule(claim=claims, to=st.sampled_from(JobState))
        def move(self, claim: Job, to: JobState) -> None:
            model = self.world.jobs[claim.id]
            legal = to in TRANSITIONS[model.state] and not (
                to is JobState.SUCCEEDED and model.cancel_requested
            )
            if self._holds(claim, lambda: self.store.transition(claim.id, to, epoch=claim.epoch), legal):
                model.state, model.events = to, model.events + 1
                if to.terminal:
                    model.leased_until = None

        @rule(claim=claims)
        def tell(self, claim: Job) -> None:
            if self._holds(
                claim,
                lambda: self.store.append_event(claim.id, EventType.DATA_LOADED, {}, epoch=claim.epoch),
            ):
                self.world.jobs[claim.id].events += 1

        @rule(claim=claims)
        def search(self, claim: Job) -> None:
            model = self.world.jobs[claim.id]
            record = {"generation": model.generations}
            if self._holds(
                claim, lambda: self.store.save_generation(claim.id, record, [], record, epoch=claim.epoch)
            ):
                model.generations, model.events = model.generations + 1, model.events + 1

        @rule(claim=claims)
        def renew(self, claim: Job) -> None:
            model = self.world.jobs[claim.id]
            renewed = self._holds(claim, lambda: self.store.renew(claim.id, LEASE_S, epoch=claim.epoch))
            if renewed and not model.state.terminal:
                model.leased_until = self.world.now + timedelta(seconds=LEASE_S)

        @rule(claim=consumes(claims))
        def release(self, claim: Job) -> None:
            model = self.world.jobs[claim.id]
            if self._holds(claim, lambda: self.store.release(claim.id, epoch=claim.epoch)):
                model.epoch, model.leased_until = model.epoch + 1, None

        @rule()
        def restart_alone(self) -> None:
            self.store.release_all()
            for model in self.world.jobs.values():
                if model.leased_until is not None:
                    model.epoch, model.leased_until = model.epoch + 1, None

        @rule(id=jobs)
        def cancel(self, id: str) -> None:
            model = self.world.jobs[id]
            if model.state.terminal:
                with pytest.raises(ConflictError):
                    self.store.request_cancel(id)
                return
            self.store.request_cancel(id)
            model.cancel_requested = True
            if model.state is JobState.QUEUED:
                model.state, model.events = JobState.CANCELLED, model.events + 1

        @invariant()
        def the_store_agrees(self) -> None:
            for id, model in self.world.jobs.items():
                job = self.store.job(id)
                assert (job.state, job.cancel_requested) == (model.state, model.cancel_requested)
                assert job.epoch == model.epoch
                assert [event.seq for event in self.store.events(id)] == list(range(1, model.events + 1))
                numbers = [record["generation"] for record in self.store.generations(id)]
                assert numbers == list(range(model.generations))

        def _holds(self, claim: Job, write: Callable[[], object], legal: bool = True) -> bool:
            """Writes by a claim; whether that had to work, and did."""
            if claim.epoch != self.world.jobs[claim.id].epoch:
                with pytest.raises(SupersededError):
                    write()
                return False
            if not legal:
                with pytest.raises(ConflictError):
                    write()
                return False
            write()
            return True

    return Lifecycle


def test_jobs_live_as_the_model_says(store_url: str, make_spec: Callable[..., JobSpec]) -> None:
    def make(clock: Any) -> Store:
        store = Store(store_url, clock)
        with store.database.writing() as session:
            for table in reversed(Base.metadata.sorted_tables):
                session.execute(delete(table))
        return store

    run_state_machine_as_test(
        lifecycle(make, make_spec()),
        settings=settings(
            max_examples=20, stateful_step_count=30, deadline=None, derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
