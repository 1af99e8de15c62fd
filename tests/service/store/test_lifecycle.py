"""The life of jobs, checked against a simple model: servers come, go, fall silent and write with stale claims."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from databases import ON_EACH
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete

from ranksieve.search.errors import ConflictError, SupersededError
from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import TRANSITIONS, Job, JobError, JobState, Request
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import FAULTS, Store
from ranksieve.service.store.schema import Base

LEASE_S = 10
RETRY_S = 3
RUNNING = [
    JobState.VALIDATING,
    JobState.PREPARING,
    JobState.SEARCHING,
    JobState.STOPPING,
    JobState.FINALIZING,
]
NEXT = {
    JobState.VALIDATING: JobState.PREPARING,
    JobState.PREPARING: JobState.SEARCHING,
    JobState.SEARCHING: JobState.FINALIZING,
    JobState.STOPPING: JobState.FINALIZING,
    JobState.FINALIZING: JobState.SUCCEEDED,
}
FAULT = JobError(code="infrastructure", message="the disk is full")
WAITING = [JobState.QUEUED, JobState.PAUSED, JobState.CRASHED]


@dataclass
class Model:
    """What a job should be."""

    state: JobState = JobState.QUEUED
    cancel_requested: bool = False
    pause_requested: bool = False
    stop_requested: bool = False
    started: bool = False
    faults: int = 0
    epoch: int = 0
    leased_until: datetime | None = None
    events: int = 1
    generations: int = 0

    def claimable(self, now: datetime) -> bool:
        return self.state in [JobState.QUEUED, *RUNNING] and not self.leased(now)

    def leased(self, now: datetime) -> bool:
        return self.leased_until is not None and self.leased_until > now

    def move(self, to: JobState) -> None:
        self.state, self.events = to, self.events + 1
        if to.ended or to in WAITING:
            self.leased_until = None
        if to in [*WAITING, JobState.CANCELLED]:
            self.epoch += 1
        if to is JobState.PAUSED or to.ended:
            self.pause_requested = False

    def ask(self, request: Request, now: datetime) -> bool:
        """Does what its user asks; whether that makes sense."""
        state, held = self.state, self.state in RUNNING and self.leased(now)
        if state.terminal or (self.cancel_requested and request is not Request.CANCEL):
            return False
        if request is Request.CANCEL:
            self.cancel_requested = True
            if not held:
                self.move(JobState.CANCELLED)
        elif request is Request.PAUSE:
            if self.stop_requested or state is JobState.CRASHED:
                return False
            if not held and state is not JobState.PAUSED:
                self.move(JobState.PAUSED)
            self.pause_requested = held
        else:
            if request is Request.STOP and not self.stop_requested:
                if not self.started or state is JobState.FINALIZING:
                    return False
                self.stop_requested = True
            elif request is Request.STOP:
                return True
            self.pause_requested = False
            if state in (JobState.PAUSED, JobState.CRASHED):
                self.faults = 0
                self.move(JobState.QUEUED)
            if request is Request.STOP and state is JobState.SEARCHING:
                self.move(JobState.STOPPING)
        return True


@dataclass
class World:
    """The models of all jobs, oldest first, and the time."""

    jobs: dict[str, Model] = field(default_factory=dict)
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def next_claimable(self) -> str | None:
        free = [id for id, job in self.jobs.items() if job.claimable(self.now)]
        return min(free, key=lambda id: self.jobs[id].state is JobState.QUEUED, default=None)

    def take_over(self) -> str | None:
        """The job that is claimed next; those before it end that are to be cancelled, or killed too many servers."""
        while (id := self.next_claimable()) is not None:
            job = self.jobs[id]
            if job.cancel_requested:
                job.move(JobState.CANCELLED)
                continue
            if job.state is JobState.QUEUED:
                return id
            job.faults += job.leased_until is not None
            if job.faults < FAULTS:
                return id
            job.move(JobState.CRASHED)
        return None


def lifecycle(make_store: Callable[[Any], Store], spec: JobSpec) -> type[RuleBasedStateMachine]:
    """A state machine over the stores that `make_store` makes for a clock."""

    class Lifecycle(RuleBasedStateMachine):
        jobs = Bundle("jobs")
        claims = Bundle("claims")

        def __init__(self) -> None:
            super().__init__()
            self.world, self.claimed = World(), list[Job]()
            self.store = make_store(lambda session: self.world.now)

        def teardown(self) -> None:
            self.store.close()

        @initialize(target=jobs)
        def submit_first(self) -> Any:
            return multiple(self.submit(), self.submit())

        @rule(target=jobs)
        def submit(self) -> str:
            id = self.store.submissions.create_job(spec).id
            self.world.jobs[id] = Model()
            return id

        @rule(seconds=st.sampled_from([1, LEASE_S - 1, LEASE_S]))
        def wait(self, seconds: int) -> None:
            self.world.now += timedelta(seconds=seconds)

        @rule(target=claims)
        def claim(self) -> Any:
            expected, job = self.world.take_over(), self.store.claims.claim_next(LEASE_S)
            assert (None if job is None else job.id) == expected
            if job is None:
                return multiple()
            model = self.world.jobs[job.id]
            model.epoch, model.started = model.epoch + 1, True
            model.move(JobState.VALIDATING)
            model.leased_until = self.world.now + timedelta(seconds=LEASE_S)
            assert job.epoch == model.epoch
            self.claimed.append(job)
            return job

        @property
        def held(self) -> list[Job]:
            """The claims that nobody has taken over."""
            return [claim for claim in self.claimed if claim.epoch == self.world.jobs[claim.id].epoch]

        @rule(claim=claims, to=st.sampled_from(JobState))
        def move(self, claim: Job, to: JobState) -> None:
            model = self.world.jobs[claim.id]
            lands = JobState.STOPPING if to is JobState.SEARCHING and model.stop_requested else to
            legal = lands in TRANSITIONS[model.state] and not (
                to is JobState.SUCCEEDED and model.cancel_requested
            )
            if self._holds(claim, lambda: self.store.runs.transition(claim.id, to, epoch=claim.epoch), legal):
                model.move(lands)

        @precondition(lambda self: self.held)
        @rule(data=st.data(), steps=st.integers(1, 4))
        def go_on(self, data: st.DataObject, steps: int) -> None:
            """As whoever holds a job does: of moves by any claim to any state most are refused, and few jobs end."""
            claim = data.draw(st.sampled_from(self.held))
            for _ in range(steps):
                if (to := NEXT.get(self.world.jobs[claim.id].state)) is not None:
                    self.move(claim, to)

        @rule(claim=claims)
        def put_back(self, claim: Job) -> None:
            model = self.world.jobs[claim.id]
            legal = JobState.QUEUED in TRANSITIONS[model.state]
            if self._holds(
                claim,
                lambda: self.store.claims.put_back(claim.id, FAULT, epoch=claim.epoch, retry_s=RETRY_S),
                legal,
            ):
                if model.cancel_requested or model.pause_requested:
                    model.move(JobState.CANCELLED if model.cancel_requested else JobState.PAUSED)
                    return
                model.faults += 1
                model.move(JobState.CRASHED if model.faults == FAULTS else JobState.QUEUED)
                if model.state is JobState.QUEUED:
                    wait = timedelta(seconds=RETRY_S * 2 ** (model.faults - 1))
                    model.leased_until = self.world.now + wait

        @rule(claim=claims)
        def tell(self, claim: Job) -> None:
            if self._holds(
                claim,
                lambda: self.store.runs.append_event(claim.id, EventType.DATA_LOADED, {}, epoch=claim.epoch),
            ):
                self.world.jobs[claim.id].events += 1

        @rule(claim=claims)
        def search(self, claim: Job) -> None:
            model = self.world.jobs[claim.id]
            record = {"generation": model.generations}
            if self._holds(
                claim,
                lambda: self.store.runs.save_generation(claim.id, record, [], record, epoch=claim.epoch),
            ):
                model.generations, model.events = model.generations + 1, model.events + 1
                model.faults = 0

        @rule(claim=claims)
        def renew(self, claim: Job) -> None:
            model = self.world.jobs[claim.id]
            renewed = self._holds(
                claim, lambda: self.store.claims.renew(claim.id, LEASE_S, epoch=claim.epoch)
            )
            if renewed and not model.state.terminal:
                model.leased_until = self.world.now + timedelta(seconds=LEASE_S)

        @rule(claim=consumes(claims))
        def release(self, claim: Job) -> None:
            model = self.world.jobs[claim.id]
            if self._holds(claim, lambda: self.store.claims.release(claim.id, epoch=claim.epoch)):
                model.epoch, model.leased_until = model.epoch + 1, None

        @rule()
        def restart_alone(self) -> None:
            self.store.claims.release_all()
            for model in self.world.jobs.values():
                if model.leased_until is not None:
                    model.faults += model.state in RUNNING
                    model.epoch, model.leased_until = model.epoch + 1, None

        @rule(id=jobs, request=st.sampled_from(Request), times=st.integers(1, 2))
        def ask(self, id: str, request: Request, times: int) -> None:
            if self.world.jobs[id].ask(request, self.world.now):
                for _ in range(times if request is not Request.CANCEL else 1):
                    self.store.user_requests.ask(id, request)
            else:
                with pytest.raises(ConflictError):
                    self.store.user_requests.ask(id, request)

        @invariant()
        def the_store_agrees(self) -> None:
            for id, model in self.world.jobs.items():
                job = self.store.job(id)
                assert job.state is model.state
                asked = (job.cancel_requested, job.pause_requested, job.stop_requested)
                assert asked == (model.cancel_requested, model.pause_requested, model.stop_requested)
                assert (job.epoch, job.faults) == (model.epoch, model.faults)
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


LIVES = 20 if settings.get_current_profile_name() == "campaign" else 5


@ON_EACH
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
            max_examples=LIVES, stateful_step_count=60,
            suppress_health_check=list(HealthCheck), phases=[Phase.generate],
        ),
    )  # fmt: skip
