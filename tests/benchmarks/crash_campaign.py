"""Kills servers at their commits, over and over: every job must end as if nothing had happened.

    .venv/bin/python tests/benchmarks/crash_campaign.py --kills 200 [--seed 0] [--database-url postgresql://…]

Jobs search a synthetic problem with the real search, store, lease and controller, each server in a process of its own.
A server dies by SIGKILL just before or just after the commit of one kind of write, or on PostgreSQL is held by SIGSTOP
until its lease has run out and another server has finished its jobs, and then goes on. Which, when and how often
follows from the seed. Users take part: a crashed job is resumed. Prints what was done, and exits with 1 if any job's
result, generations, candidates or events differ from those of an undisturbed run.
"""

import argparse
import logging
import os
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NoReturn

import numpy as np
from accounts import account, differences
from commits import watch
from rich.console import Console
from rich.table import Table
from tuning import tune

from ranksieve.search.errors import StoreError
from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.search.space.objectives import MaxDrop, TargetParams
from ranksieve.search.space.prices import Prices
from ranksieve.search.space.space import SearchSpace
from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import Job, JobState, Request
from ranksieve.service.pipeline.search_plan import SearchPlan
from ranksieve.service.pipeline.searching import search
from ranksieve.service.policy import policy_of
from ranksieve.service.run.controller import Controller
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store

LEASE_S = 0.6
JOBS_AT_ONCE = 2
SCORERS = 3
WRITES = {"claim_next": 2, "transition": 4, "append_event": 12, "save_generation": 4, "renew": 2}
"""Kinds of commits, and up to which of them in a server's life it is killed at."""

SPACE = SearchSpace(
    [
        MatrixShape(name=f"m{i}", out_features=o, in_features=d, layer=i, kind="m")
        for i, (o, d) in enumerate([(8, 8), (8, 16), (8, 24), (16, 8)])
    ],
    1,
)
ENERGIES = [scale * np.arange(1, 9.0) ** -decay for scale, decay in [(1, 1), (0.3, 2), (2, 0.5), (0.7, 1)]]
PRICES = Prices(SPACE, ENERGIES)


def spec_of(seed: int) -> JobSpec:
    """A job; every second one has the other objective. Puts the constants of all in force in this process."""
    search = {"population": 3, "offspring": 4, "generations": 5, "patience": 9}
    document = tune(
        {
            "model": {"path": "synthetic"},
            "task": {
                "kind": "lm",
                "answer": "{{ text }}",
                "data": {"source": {"path": "none.jsonl"}, "sizes": {"search": 32}},
            },
            "policy": {"search": search},
            "search": {"max_evaluations": 60},
            "seed": seed,
            "objective": {"kind": "max_drop", "points": 8}
            if seed % 2
            else {"kind": "target_params", "share": 0.5},
        }
    )
    return JobSpec.model_validate(document)


class Scorer:
    """Scores a few trials at once, the last one started first."""

    def outcomes(self, ask: Callable[[int], Sequence[Trial]], confidence: float) -> Iterator[Outcome]:
        """As `service.pipeline.trials.TrialScorer.outcomes`."""
        running: list[Trial] = []
        while running := [*running, *ask(SCORERS - len(running))]:
            trial = running.pop()
            kl_nats = float(PRICES.lost_GL[PRICES.rows_G, list(trial.genome)].sum())
            kl_nats *= 1 + 0.01 * (sum(trial.genome) % 7) / trial.examples
            yield Outcome(
                genome=trial.genome,
                examples=trial.examples,
                kl_nats=kl_nats,
                drop_points=kl_nats,
                metric=0.5,
            )


def pipeline(job: Job, log: JobLog) -> dict[str, Any]:
    """A whole job, with a model of a few numbers."""
    objective = MaxDrop(points=8) if job.spec.objective.kind == "max_drop" else TargetParams(share=0.5)
    plan = SearchPlan(space=SPACE, objective=objective, settings=policy_of(job.spec).search)
    log.event(EventType.DATA_LOADED, splits={}, dropped_duplicates=0, digests={}, notes=[])
    log.state(JobState.PREPARING)
    log.state(JobState.SEARCHING)
    evolution = search(plan, ENERGIES, Scorer(), 0.8, log)  # type: ignore[arg-type]
    log.state(JobState.FINALIZING)
    finalists = [[list(one.genome), one.risk] for one in evolution.finalists()]
    return {"finalists": finalists, "evaluations": evolution.evaluations}


@dataclass(frozen=True, kw_only=True, slots=True)
class Blow:
    """What happens to a server: a signal before or after the commit of its `count`-th write of one kind."""

    signal: signal.Signals
    write: str
    when: str
    count: int

    def arm(self, store: Store) -> None:
        """Makes the process of this store die, or stop, when the moment has come."""
        left = self.count

        def moment(write: str, _: tuple[Any, ...], when: str) -> None:
            nonlocal left
            left -= (write, when) == (self.write, self.when)
            if left == 0:
                left = -1  # it goes on, if it was held
                os.kill(os.getpid(), self.signal)

        watch(store, WRITES, moment)


def serve(url: str, folder: Path, blow: Blow | None) -> NoReturn:
    """Runs all jobs, as a server that has just started does; ends with its process."""
    logging.disable(logging.CRITICAL)
    store, ended = Store(url), threading.Event()
    if blow is not None:
        blow.arm(store)
    if url.startswith("sqlite"):
        store.claims.release_all()
    store.base.listener = lambda id: ended.set()
    controller = Controller(
        store, pipeline, folder / "jobs", running_jobs=JOBS_AT_ONCE, lease_s=LEASE_S, retry_s=0.0
    )
    controller.start()
    while not all_ended(store):
        ended.wait(LEASE_S)
        ended.clear()
    controller.stop()
    os._exit(0)


def all_ended(store: Store) -> bool:
    """Whether no job is left to run; no while the database does not answer.

    PostgreSQL ends the session of a server that was held in a transaction for long. The next question opens another.
    """
    try:
        return all(state.ended for state in store.count_jobs())
    except StoreError:
        return False


def fork(serve_jobs: Callable[[], NoReturn]) -> int:
    """Starts a server in a process of its own: a copy of this one, which has all it needs imported."""
    if (pid := os.fork()) == 0:
        try:
            serve_jobs()
        finally:
            os._exit(70)
    return pid


class Campaign:
    """Batches of jobs on one database, and what happens to their servers.

    Args:
        url: The database.
        folder: For what jobs write.
        rng: Draws the blows.
    """

    def __init__(self, url: str, folder: Path, rng: Random) -> None:
        self._url, self._folder, self._rng = url, folder, rng
        self.blows: Counter[tuple[str, str]] = Counter()
        self.jobs = self.resumed = 0
        self.differences: list[str] = []

    @property
    def struck(self) -> int:
        """How many servers were killed or held."""
        return self.blows.total()

    def batch(self, blows: int) -> None:
        """Runs a few jobs to their ends, through at most so many blows."""
        with self._store() as store:
            ids = [store.submissions.create_job(spec_of(self.jobs + i)).id for i in range(JOBS_AT_ONCE)]
        self.jobs += len(ids)
        limit = self.struck + blows
        while self.struck < limit and not self._over():
            self._strike()
        while not self._over():
            self._run(None)
        with self._store() as store:
            for id in ids:
                job = store.job(id)
                self.differences += differences(store, job, undisturbed(job.spec))

    def _strike(self) -> None:
        blow = self._draw()
        pid = self._start(blow)
        _, status = os.waitpid(pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            self._run(None)  # another server, which waits until the lease has run out
            os.kill(pid, signal.SIGCONT)
            _, status = os.waitpid(pid, 0)
            self._count(blow, status, expected=0)
        elif os.WIFSIGNALED(status):
            self._count(blow, status, expected=signal.SIGKILL)
        elif status:
            raise SystemExit(f"a server ended with {os.waitstatus_to_exitcode(status)}, {blow}")

    def _count(self, blow: Blow, status: int, *, expected: int) -> None:
        if os.waitstatus_to_exitcode(status) != -expected:
            raise SystemExit(f"a server ended with {os.waitstatus_to_exitcode(status)} after {blow}")
        self.blows[blow.write, f"{'held' if blow.signal is signal.SIGSTOP else 'killed'} {blow.when}"] += 1

    def _draw(self) -> Blow:
        write = self._rng.choice(list(WRITES))
        count = self._rng.randint(1, WRITES[write])
        if not self._url.startswith("sqlite") and self._rng.random() < 0.25:
            return Blow(signal=signal.SIGSTOP, write=write, when="after", count=count)
        return Blow(
            signal=signal.SIGKILL, write=write, when=self._rng.choice(["before", "after"]), count=count
        )

    def _start(self, blow: Blow | None) -> int:
        return fork(partial(serve, self._url, self._folder, blow))

    def _run(self, blow: Blow | None) -> None:
        _, status = os.waitpid(self._start(blow), 0)
        if status:
            raise SystemExit(f"an undisturbed server ended with {os.waitstatus_to_exitcode(status)}")

    def _over(self) -> bool:
        """Whether all jobs have ended; crashed ones are resumed."""
        with self._store() as store:
            for job in store.jobs(states=[JobState.CRASHED]):
                store.user_requests.ask(job.id, Request.RESUME)
                self.resumed += 1
            return all(state.terminal for state in store.count_jobs())

    @contextmanager
    def _store(self) -> Iterator[Store]:
        """The store, closed before a process is copied: connections cannot be shared."""
        store = Store(self._url)
        try:
            yield store
        finally:
            store.close()


def undisturbed(spec: JobSpec) -> dict[str, Any]:
    """The account of a job that nothing happens to."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/jobs.db")
        store.submissions.create_job(spec)
        job = store.claims.claim_next()
        assert job is not None
        result = pipeline(job, JobLog(store, job, Path(folder)))
        job = store.runs.transition(job.id, JobState.SUCCEEDED, epoch=job.epoch, result=result)
        found = account(store, job)
        store.close()
    return found


def table(campaign: Campaign) -> Table:
    """What was done."""
    kinds = ["killed before", "killed after", "held after"]
    shown = Table("write", title=f"{campaign.struck} blows to servers of {campaign.jobs} jobs")
    for kind in kinds:
        shown.add_column(f"{kind} its commit", justify="right")
    for write in WRITES:
        shown.add_row(write, *(str(campaign.blows[write, kind]) for kind in kinds))
    shown.caption = f"{campaign.resumed} crashed jobs resumed; {len(campaign.differences)} differences"
    return shown


def main() -> None:
    """Run the campaign that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database-url", help="an empty database; by default SQLite in a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        url = arguments.database_url or f"sqlite:///{name}/jobs.db"
        campaign = Campaign(url, Path(name), Random(arguments.seed))
        while campaign.struck < arguments.kills:
            campaign.batch(arguments.kills - campaign.struck)
    Console(width=100).print(table(campaign))
    if campaign.differences:
        sys.exit("\n".join(campaign.differences))


if __name__ == "__main__":
    main()
