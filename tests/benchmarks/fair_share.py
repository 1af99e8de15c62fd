"""Whether jobs that run at once share a cluster fairly: real controller, store, search and sharing; simulated actors.

    .venv/bin/python tests/benchmarks/fair_share.py [--actors 4] [--seconds 0.2]

Actors take real time, but only sleep: log-normal, proportional to the examples of a trial. A cluster is run by one
server, which runs as many jobs at once as a row says. Prints when the jobs ended, in seconds from when all of them were
submitted, and checks that each has found what it finds alone.
"""

import logging
import math
import threading
import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table
from search_dispatch import EXAMPLES, OBJECTIVES, SIGMA, SMALL, Problem

from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.service.job.job import Job, JobState
from ranksieve.service.pipeline.search_plan import SearchPlan
from ranksieve.service.pipeline.searching import search
from ranksieve.service.policy import policy_of
from ranksieve.service.run.controller import Controller
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store
from ranksieve.workers.cluster.packing import amounts
from ranksieve.workers.cluster.shares import Share, Sharing

LONG, SHORT = 400, 50
"""Evaluations of a long job and of a short one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Actors:
    """Scores by sleeping, as many trials at once as the job has actors."""

    problem: Problem
    share: Share
    seconds: float

    def outcomes(self, ask: Callable[[int], Sequence[Trial]], confidence: float) -> Iterator[Outcome]:
        """As `service.pipeline.trials.TrialScorer.outcomes`."""
        running: list[tuple[float, Trial]] = []
        while True:
            while self.share.excess and len(running) < self.share.held:
                self.share.give_back(self.share.wait(threading.Event()))
            while self.share.take():
                pass
            for trial in ask(idle) if (idle := self.share.held - len(running)) > 0 else ():
                heappush(running, (time.monotonic() + self._seconds_of(trial), trial))
            if not running:
                return
            done_at, trial = heappop(running)
            time.sleep(max(0.0, done_at - time.monotonic()))
            yield self.problem.outcome(trial)

    def _seconds_of(self, trial: Trial) -> float:
        spread = Random(hash(trial)).gauss(-(SIGMA**2) / 2, SIGMA)
        return self.seconds * trial.examples / EXAMPLES * math.exp(spread)


class Cluster:
    """So many actors, and the jobs on them.

    Args:
        actors: Their number.
        seconds: Mean time of one on all examples.
    """

    def __init__(self, actors: int, seconds: float) -> None:
        self._problem = Problem(layers=4)
        self._capacity, self._seconds = amounts(CPU=actors), seconds

    def run(self, jobs: dict[str, int], at_once: int) -> dict[str, tuple[float, Any]]:
        """Submits jobs of so many evaluations together; when each ended, and what it found."""
        with TemporaryDirectory() as folder:
            store, over = Store(f"sqlite:///{folder}/jobs.db"), threading.Event()
            ids = {name: store.submissions.create_job(_spec(name, count)).id for name, count in jobs.items()}
            ended: dict[str, float] = {}
            started_at = time.monotonic()

            def listen(id: str) -> None:
                if store.job(id).state.terminal:
                    ended.setdefault(id, time.monotonic() - started_at)
                if len(ended) == len(ids):
                    over.set()

            store.base.listener = listen
            sharing = Sharing()
            controller = Controller(
                store, lambda job, log: self._pipeline(sharing, job, log), Path(folder), running_jobs=at_once
            )
            controller.start()
            over.wait()
            controller.stop()
            found = {name: (ended[id], store.job(id).result) for name, id in ids.items()}
            store.close()
            return found

    def _pipeline(self, sharing: Sharing, job: Job, log: JobLog) -> dict[str, Any]:
        limits = policy_of(job.spec).search.max_evaluations
        plan = SearchPlan(
            space=self._problem.space,
            objective=OBJECTIVES["target_params"],
            settings=replace(SMALL, max_evaluations=limits),
        )
        size, wanted = amounts(CPU=1), job.spec.resources.actors
        with sharing.enter(
            job.id, {"here": self._capacity}, size, limit=wanted, priority=0, cancelled=log.cancelled
        ) as share:
            log.state(JobState.PREPARING)
            log.state(JobState.SEARCHING)
            share.use(math.inf)
            scorer = Actors(problem=self._problem, share=share, seconds=self._seconds)
            evolution = search(plan, self._problem.energies, scorer, 0.8, log)  # type: ignore[arg-type]
        log.state(JobState.FINALIZING)
        return {
            "genomes": [list(one.genome) for one in evolution.finalists()],
            "evaluations": evolution.evaluations,
        }


def _spec(name: str, evaluations: int) -> JobSpec:
    data = {"source": {"path": "none.jsonl"}, "sizes": {"search": EXAMPLES}}
    return JobSpec.model_validate(
        {
            "name": name,
            "model": {"path": "synthetic"},
            "task": {"kind": "lm", "answer": "{{ text }}", "data": data},
            "search": {"max_evaluations": evaluations},
            "resources": {"actors": 4096},
        }
    )


def main() -> None:
    options = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    options.add_argument("--actors", type=int, default=4)
    options.add_argument(
        "--seconds", type=float, default=0.2, help="of a scoring of all examples, on average"
    )
    arguments = options.parse_args()
    logging.disable(logging.WARNING)
    cluster = Cluster(arguments.actors, arguments.seconds)
    alone = {name: cluster.run({name: count}, 1)[name] for name, count in (("long", LONG), ("short", SHORT))}
    table = Table("jobs", "at once", "ended after, s")
    for name, (seconds, _) in alone.items():
        table.add_row(f"{name} alone", "1", f"{seconds:.1f}")
    for jobs, at_once in (
        ({"long": LONG, "long again": LONG}, 1),
        ({"long": LONG, "long again": LONG}, 2),
        ({"long": LONG, "short": SHORT}, 1),
        ({"long": LONG, "short": SHORT}, 2),
    ):
        ended = cluster.run(jobs, at_once)
        assert all(result == alone[name.split()[0]][1] for name, (_, result) in ended.items())
        times = ", ".join(f"{name} {seconds:.1f}" for name, (seconds, _) in ended.items())
        table.add_row(" and ".join(jobs), str(at_once), times)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
