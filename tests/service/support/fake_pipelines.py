"""Pipelines without work for tests of the controller, and a session without Ray."""

import threading
from typing import Any

from ranksieve.service.job.job import Job, JobState
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.run.run import Pipeline

SHORT_S = 0.6
"""A lease for tests that wait until it has run out."""


def begin_search(log: JobLog) -> None:
    """Takes a job from its claim to its search."""
    log.state(JobState.PREPARING)
    log.state(JobState.SEARCHING)


def succeed(job: Job, log: JobLog) -> dict[str, Any]:
    """A pipeline that goes through all states at once."""
    begin_search(log)
    log.state(JobState.FINALIZING)
    return {"name": job.name}


def raising(error: Exception) -> Pipeline:
    """Makes a pipeline that fails at once."""

    def pipeline(job: Job, log: JobLog) -> dict[str, Any]:
        raise error

    return pipeline


class Held:
    """A pipeline that searches until it is asked to end."""

    def __init__(self) -> None:
        self.searching = threading.Event()

    def __call__(self, job: Job, log: JobLog) -> dict[str, Any]:
        begin_search(log)
        self.searching.set()
        assert log.cancelled.wait(60)
        log.raise_if_cancelled()
        raise AssertionError("unreachable")


class Places:
    """A pipeline that holds every job in its search until it is let go; the job's name is its key."""

    def __init__(self, *names: str) -> None:
        self.searching = {name: threading.Event() for name in names}
        self.go = {name: threading.Event() for name in names}
        self.faults: dict[str, list[Exception]] = {name: [] for name in names}

    def __call__(self, job: Job, log: JobLog) -> dict[str, Any]:
        begin_search(log)
        self.searching[job.name].set()
        while not self.go[job.name].wait(0.005):
            log.raise_if_cancelled()
        if self.faults[job.name]:
            raise self.faults[job.name].pop()
        log.state(JobState.FINALIZING)
        return {}

    def reach(self, *names: str) -> None:
        """Waits until these jobs search, anew."""
        for name in names:
            assert self.searching[name].wait(60), name
            self.searching[name].clear()

    def end(self, name: str, error: Exception | None = None) -> None:
        """Ends a job, by an error if one is given; another run of it ends by itself."""
        self.faults[name] += [] if error is None else [error]
        self.go[name].set()


class Session:
    """Stands in for Ray."""

    def __init__(self) -> None:
        self.is_gone = False
        self.closed = 0

    def gone(self) -> bool:
        return self.is_gone

    def close(self) -> None:
        self.is_gone = False
        self.closed += 1
