"""Jobs under a real controller and whatever users do, against a small model of it; the pipeline does as it is told."""

import queue
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from ranksieve.search.errors import ConflictError, InfrastructureError, InputError
from ranksieve.service.job.job import Job, JobState, Request
from ranksieve.service.run.controller import Controller
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import FAULTS, Store

REACHED_WITHIN_S = 30
COMMANDS = ["generation", "finish", "fail", "fault"]


class Commanded:
    """A pipeline whose searches follow commands one after another, and the requests of their users."""

    def __init__(self) -> None:
        self.commands: dict[str, queue.Queue[str]] = defaultdict(queue.Queue)  # by job

    def __call__(self, job: Job, log: JobLog) -> dict[str, Any]:
        log.state(JobState.PREPARING)
        log.state(JobState.SEARCHING)
        generations = self._search(log)
        log.state(JobState.FINALIZING)
        return {"generations": generations}

    def _search(self, log: JobLog) -> int:
        generations = (log.search_state() or {"next": 0})["next"]
        while not log.stopping.is_set():
            log.raise_if_cancelled()
            try:
                command = self.commands[log.job.id].get(timeout=0.002)
            except queue.Empty:
                continue
            match command:
                case "generation":
                    log.generation({"generation": generations}, [], {"next": generations + 1})
                    generations += 1
                case "finish":
                    break
                case "fail":
                    raise InputError("model.path", "is no folder")
                case "fault":
                    raise InfrastructureError("Ray is gone")
        return int(generations)


@dataclass
class Model:
    """What a job should be when nothing moves; those that run are searching."""

    state: JobState = JobState.QUEUED
    started: bool = False
    stops: bool = False
    generations: int = 0
    faults: int = 0

    def asked(self, request: Request) -> bool:
        """Does what its user asks; whether that makes sense."""
        resting = self.state in (JobState.PAUSED, JobState.CRASHED)
        match request:
            case _ if self.state.terminal:
                return False
            case Request.CANCEL:
                self.state = JobState.CANCELLED
            case Request.PAUSE:
                if self.state is JobState.CRASHED or self.stops:
                    return False
                self.state = JobState.PAUSED
            case Request.STOP if not self.started:
                return False
            case _:
                self.stops |= request is Request.STOP
                if resting:
                    self.state, self.faults = JobState.QUEUED, 0
                elif self.stops and self.state is JobState.SEARCHING:
                    self.state = JobState.SUCCEEDED
        return True

    def commanded(self, command: str) -> None:
        """Does what its pipeline was told."""
        match command:
            case "generation":
                self.generations, self.faults = self.generations + 1, 0
            case "finish":
                self.state = JobState.SUCCEEDED
            case "fail":
                self.state = JobState.FAILED
            case "fault":
                self.faults += 1
                self.state = JobState.CRASHED if self.faults == FAULTS else JobState.QUEUED


@dataclass
class World:
    """The models of all jobs, oldest first, and how many may run at once."""

    running_jobs: int
    jobs: dict[str, Model] = field(default_factory=dict)

    @property
    def running(self) -> list[str]:
        return [id for id, job in self.jobs.items() if job.state is JobState.SEARCHING]

    def settle(self) -> None:
        """Jobs run until so many of them search, or none is queued; one that is to stop searches no more."""
        while len(self.running) < self.running_jobs:
            job = next((job for job in self.jobs.values() if job.state is JobState.QUEUED), None)
            if job is None:
                return
            job.started, job.state = True, JobState.SUCCEEDED if job.stops else JobState.SEARCHING


def life(spec: JobSpec, running_jobs: int) -> type[RuleBasedStateMachine]:
    """A state machine over a server of its own, which runs so many jobs at once."""

    class Life(RuleBasedStateMachine):
        jobs = Bundle("jobs")

        def __init__(self) -> None:
            super().__init__()
            self.folder = tempfile.TemporaryDirectory()
            self.store = Store(f"sqlite:///{self.folder.name}/jobs.db")
            self.committed = threading.Condition()
            self.store.base.listener = self._notify
            self.world, self.pipeline = World(running_jobs), Commanded()
            self._start()

        def teardown(self) -> None:
            self.controller.stop()
            self.store.close()
            self.folder.cleanup()

        @rule(target=jobs)
        def submit(self) -> str:
            id = self.store.submissions.create_job(spec).id
            self.world.jobs[id] = Model()
            self.controller.wake()
            self._agree()
            return id

        @rule(id=jobs, request=st.sampled_from(Request), times=st.integers(1, 2))
        def ask(self, id: str, request: Request, times: int) -> None:
            for _ in range(times if request is not Request.CANCEL else 1):
                if self.world.jobs[id].asked(request):
                    self.controller.request(id, request)
                    self._agree()
                else:
                    with pytest.raises(ConflictError):
                        self.controller.request(id, request)

        @precondition(lambda self: self.world.running)
        @rule(last=st.booleans(), command=st.sampled_from(COMMANDS), times=st.integers(1, FAULTS))
        def tell(self, last: bool, command: str, times: int) -> None:
            for _ in range(times):
                if not (running := self.world.running):
                    return
                id = running[-1 if last else 0]
                self.world.jobs[id].commanded(command)
                self.pipeline.commands[id].put(command)
                self._agree()

        @rule()
        def restart(self) -> None:
            self.controller.stop()
            self.store.claims.release_all()
            self._start()
            self._agree()

        def _start(self) -> None:
            jobs_dir = Path(self.folder.name) / "jobs"
            self.controller = Controller(
                self.store, self.pipeline, jobs_dir, running_jobs=running_jobs, retry_s=0.0
            )
            self.controller.start()

        def _notify(self, id: str) -> None:
            with self.committed:
                self.committed.notify_all()

        def _agree(self) -> None:
            """Waits until the jobs are as the model says."""
            self.world.settle()
            expected = {id: self._essence(model) for id, model in self.world.jobs.items()}
            with self.committed:
                reached = self.committed.wait_for(lambda: self._found() == expected, REACHED_WITHIN_S)
            assert reached, f"{self._found()} is not {expected}"

        def _essence(self, model: Model) -> tuple[Any, ...]:
            done = model.state is JobState.SUCCEEDED
            result = {"generations": model.generations} if done else None
            return model.state, list(range(model.generations)), model.faults, result

        def _found(self) -> dict[str, tuple[Any, ...]]:
            return {id: self._look(self.store.job(id)) for id in self.world.jobs}

        def _look(self, job: Job) -> tuple[Any, ...]:
            numbers = [record["generation"] for record in self.store.generations(job.id)]
            return job.state, numbers, job.faults, job.result

    return Life


@pytest.mark.parametrize("running_jobs", [1, 2])
def test_jobs_under_a_controller_live_as_the_model_says(
    make_spec: Callable[..., JobSpec], running_jobs: int
) -> None:
    run_state_machine_as_test(
        life(make_spec(), running_jobs),
        settings=settings(
            max_examples=10, stateful_step_count=15,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
