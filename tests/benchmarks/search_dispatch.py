"""Whether actors wait for each other, and what the search costs besides scoring: the real search on synthetic scores.

The matrices are those of a 135M model (`--layers`), and the loss of a candidate is the predicted one under hidden
weights per matrix, so there is something to find.

`utilisation` simulates actors: an event queue holds who is done when, nothing sleeps. Evaluation times are log-normal,
proportional to the examples, and other ones for every number of actors. Utilisation is the busy time of all actors over
their number times the simulated time from the first trial to the last. With `--controller-ms` the controller takes so
long for every outcome, one after another, before its actor gets more to do. Every search must find the same as one
actor.

`quality` asks what overlap costs, as a generation knows less of those before: what a search of default sizes has found
when a budget of actor seconds is spent, paired over problems with other hidden weights. For `target_params` it is how
far the loss is below that of the Lagrangian seed, for `max_drop` the kept share, both in percent.

`machinery` runs 200 evaluations of 210 matrices through all that the controller does (the search, the bootstrap of
every score, the events and generations in the job store) in real time, all but the synthetic scorer and Ray.
"""

import json
import math
import time
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from heapq import heappop, heappush
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from synthetic_task import SHAPES

from ranksieve.search.evolution.evolution import Evolution
from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.evolution.record import GenerationRecord
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.search.space.objectives import MaxDrop, Objective, TargetParams
from ranksieve.search.space.prices import Prices
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.seeds import lagrangian
from ranksieve.service.pipeline.scoring import TaskScorer
from ranksieve.service.pipeline.search_plan import SearchPlan
from ranksieve.service.pipeline.searching import search
from ranksieve.service.pipeline.trials import TrialScorer
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store
from ranksieve.workers.types.plan import EncodedTask, Example, Row
from ranksieve.workers.types.scores import Beliefs, ScoreRequest, Scores

LAYERS = 30
ACTORS = (1, 2, 8, 64, 256)
EXAMPLES = 256
MEAN_S, SIGMA = 2.0, 0.5
"""Of an evaluation on all examples: mean, and standard deviation of the logarithm."""

SMALL = SearchSettings(generations=40, max_evaluations=400, patience=40)
"""The defaults, but for an end that does not depend on luck."""

LARGE = SearchSettings(population=256, offspring=512, generations=40, max_evaluations=10**6, patience=40)
"""For hundreds of actors."""

PARTS = ("utilisation", "quality", "machinery")
SEARCHES = {"small": (SMALL, (1, 2)), "large": (LARGE, (1, 4))}
OBJECTIVES = {"target_params": TargetParams(share=0.35), "max_drop": MaxDrop(points=20.0)}


class Problem:
    """A space, what the search believes about it, and a loss that knows better."""

    def __init__(self, layers: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        matrices = [
            MatrixShape(name=f"{layer}.{kind}", out_features=o, in_features=d, layer=layer, kind=kind)
            for layer in range(layers)
            for kind, (o, d) in SHAPES.items()
        ]
        self.space = SearchSpace(matrices, 16)
        self.energies = [_spectrum(min(m.out_features, m.in_features), rng) for m in matrices]
        self.weights_M = rng.lognormal(0, 0.7, len(matrices))

    @cached_property
    def _prices(self) -> Prices:
        return Prices(self.space, self.energies)

    @cached_property
    def _worst(self) -> float:
        return self._lost((0,) * len(self.space))

    def _lost(self, genome: Genome) -> float:
        lost_G = self._prices.lost_GL[self._prices.rows_G, list(genome)]
        return float((lost_G * self.weights_M).sum())

    def loss(self, trial: Trial) -> float:
        """In nats; 1 where nothing is kept. A little off on few examples, and always the same for a trial."""
        error = Random(hash(trial.genome)).gauss(0, 0.1 / math.sqrt(trial.examples))
        return self._lost(trial.genome) / self._worst * (1 + error)

    def outcome(self, trial: Trial) -> Outcome:
        loss = self.loss(trial)
        return Outcome(
            genome=trial.genome,
            examples=trial.examples,
            kl_nats=loss,
            drop_points=100 * loss,
            metric=1 - loss,
            tokens=trial.examples,
        )

    def seed(self, objective: TargetParams) -> Genome:
        return lagrangian(self.space, self.energies, objective.share)

    def evolution(self, objective: Objective, settings: SearchSettings) -> Evolution:
        return Evolution(self.space, self.energies, objective, settings)


def _spectrum(length: int, rng: np.random.Generator) -> NDArray[np.float64]:
    ranks = np.arange(1, length + 1, dtype=np.float64)
    return np.asarray(rng.lognormal(-3, 0.7) * ranks ** -rng.uniform(0.6, 1.6))


def simulate(
    problem: Problem,
    evolution: Evolution,
    actors: int,
    controller_s: float = 0.0,
    deadline_s: float = math.inf,
) -> tuple[dict[str, Any], list[GenerationRecord]]:
    """Runs a search to its end, or to a deadline.

    Args:
        problem: Scores the trials.
        evolution: The search, at its beginning.
        actors: How many trials run at once.
        controller_s: What the controller takes for an outcome.
        deadline_s: When to stop, in simulated time.

    Returns:
        The row of the table, and every record.
    """
    rng = Random(f"times of {actors} actors")
    running: list[tuple[float, int, Trial]] = []
    records: list[GenerationRecord] = []
    now_s = busy_s = free_s = 0.0  # free: when the controller is
    started = 0
    while True:
        while (record := evolution.retire()) is not None:
            records.append(record)
        for trial in evolution.ask(actors - len(running)):
            mean_s = MEAN_S * trial.examples / EXAMPLES
            seconds = rng.lognormvariate(math.log(mean_s) - SIGMA**2 / 2, SIGMA)
            busy_s, started = busy_s + seconds, started + 1
            heappush(running, (free_s + seconds, started, trial))
        if not running or running[0][0] > deadline_s:
            break
        now_s, _, trial = heappop(running)
        free_s = max(free_s, now_s) + controller_s
        evolution.tell([problem.outcome(trial)])
    if not (running or evolution.finished):
        raise SystemExit("the search waits for nobody and is not finished")
    row = {
        "actors": actors,
        "utilisation": busy_s / (actors * now_s),
        "wall_s": now_s,
        "evaluations": started,
    }
    return row, records


def utilisation(arguments: Namespace) -> list[dict[str, Any]]:
    problem, rows = Problem(arguments.layers), []
    objective = OBJECTIVES[arguments.objective]
    print(
        f"{'search':8}{'overlap':>8}{'actors':>8}{'utilisation':>13}{'wall, s':>10}{'evaluations':>13}  found"
    )
    for name in arguments.searches:
        settings, overlaps = SEARCHES[name]
        for overlap in overlaps:
            single: object = None
            for actors in (1, *(count for count in arguments.actors if count > 1)):
                evolution = problem.evolution(objective, replace(settings, overlap=overlap))
                row, records = simulate(problem, evolution, actors, arguments.controller_ms / 1000)
                found = (records, evolution.finalists(), evolution.front(), evolution.state())
                single = found if actors == 1 else single
                if found != single:
                    raise SystemExit(f"{actors} actors found something else than one actor")
                rows.append({"search": name, "overlap": overlap, **row})
                print(
                    f"{name:8}{overlap:>8}{actors:>8}{row['utilisation']:>13.3f}{row['wall_s']:>10.1f}"
                    f"{row['evaluations']:>13}  {'' if actors == 1 else 'the same as one actor'}",
                    flush=True,
                )
    return rows


def quality(arguments: Namespace) -> list[dict[str, Any]]:
    problems = [Problem(arguments.layers, seed) for seed in range(arguments.problems)]
    objective = OBJECTIVES[arguments.objective]
    rows = []
    print(f"{arguments.objective}, {arguments.problems} problems, {arguments.budget_s:g} actor seconds")
    print(f"{'actors':>6}{'overlap':>9}{'found, %':>10}{'against overlap 1':>20}")
    for actors in (1, 2, 4, 8, 16):
        barrier: NDArray[np.float64] | None = None
        for overlap in (1, 2, 3, 4):
            settings = replace(SMALL, overlap=overlap, generations=10**6, max_evaluations=10**6)
            patience = SearchSettings().patience if isinstance(objective, MaxDrop) else 10**6
            settings = replace(settings, patience=patience)
            deadline_s = arguments.budget_s / actors
            found = np.array(
                [_found(problem, objective, settings, actors, deadline_s) for problem in problems]
            )
            barrier = found if barrier is None else barrier
            gain = found - barrier
            error = float(gain.std(ddof=1) / math.sqrt(len(gain)))
            rows.append(
                {
                    "actors": actors,
                    "overlap": overlap,
                    "found": found.mean(),
                    "gain": gain.mean(),
                    "error": error,
                }
            )
            print(
                f"{actors:>6}{overlap:>9}{found.mean():>10.2f}{gain.mean():>+12.2f} ± {error:.2f}", flush=True
            )
    return rows


def _found(
    problem: Problem, objective: Objective, settings: SearchSettings, actors: int, deadline_s: float
) -> float:
    evolution = problem.evolution(objective, settings)
    _, records = simulate(problem, evolution, actors, deadline_s=deadline_s)
    if isinstance(objective, MaxDrop):
        return 100 * min((record.kept_share for record in records if record.accepted), default=1.0)
    seed, found = (
        Trial(genome=genome, examples=10**9)
        for genome in (problem.seed(objective), evolution.finalists()[0].genome)
    )
    return 100 * (1 - problem.loss(found) / problem.loss(seed))


class Stopwatch:
    """Elapsed and processor time, without what is spent scoring."""

    def __init__(self) -> None:
        self._started = self._now()
        self._paused_since = self._paused = (0.0, 0.0)

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def pause(self) -> None:
        self._paused_since = self._now()

    def go_on(self) -> None:
        spent = (now - since for now, since in zip(self._now(), self._paused_since, strict=True))
        self._paused = tuple(map(sum, zip(self._paused, spent, strict=True)))

    def milliseconds_per(self, count: int) -> dict[str, float]:
        now, started, paused = self._now(), self._started, self._paused
        elapsed, cpu = (1000 * (now[i] - started[i] - paused[i]) / count for i in range(2))
        return {"elapsed_ms": elapsed, "cpu_ms": cpu}


class SyntheticRunner:
    """Stands in for the dispatcher; while it makes scores the watch stands still."""

    def __init__(self, problem: Problem, watch: Stopwatch) -> None:
        self._problem, self._watch = problem, watch
        self._rng = np.random.default_rng(0)

    def stream(
        self, method: str, take: Callable[[int], Iterable[tuple[Trial, ScoreRequest]]]
    ) -> Iterator[tuple[Trial, object]]:
        while taken := list(take(1)):
            for trial, request in taken:
                self._watch.pause()
                scores = self._scores(request.examples, self._problem.loss(trial))
                self._watch.go_on()
                yield trial, scores

    def run(
        self,
        method: str,
        requests: Sequence[ScoreRequest],
        on_done: Callable[[int], None] = lambda done: None,
    ) -> list[object]:
        beliefs = Beliefs(
            logp_AK=np.zeros((EXAMPLES, 2), np.float32),
            token_AK=np.zeros((EXAMPLES, 2), np.int32),
            offset_E=np.arange(EXAMPLES + 1),
        )
        return [(self._scores(request.examples, 0.0), beliefs) for request in requests]

    def set_beliefs(self, beliefs: object) -> None:
        pass

    def _scores(self, examples: int, loss: float) -> Scores:
        right = (self._rng.random(examples) < 0.8 - loss / 2).astype(np.float64)
        kl_nats = np.full(examples, loss)
        return Scores(
            quality=right,
            exact=right,
            nll_nats=kl_nats,
            kl_nats=kl_nats,
            answer_tokens=np.ones(examples),
            tokens=examples,
            seconds=0.0,
        )


def machinery(arguments: Namespace) -> dict[str, dict[str, float]]:
    """What a search of default settings takes around the scorings: alone, and as `pipeline.searching` runs it."""
    problem = Problem(LAYERS)
    settings = replace(SMALL, max_evaluations=arguments.evaluations)
    numbers = {
        "search": _search_alone(problem, settings),
        "search, bootstrap, store": _whole_controller(problem, settings),
    }
    print(
        f"{settings.max_evaluations} evaluations of {len(problem.space)} matrices, milliseconds per evaluation"
    )
    print(f"{'':30}{'elapsed':>10}{'processor':>11}{'elapsed, share of 1 s':>24}")
    for name, row in numbers.items():
        print(f"{name:30}{row['elapsed_ms']:>10.2f}{row['cpu_ms']:>11.2f}{row['elapsed_ms'] / 10:>22.2f} %")
    return numbers


def _search_alone(problem: Problem, settings: SearchSettings) -> dict[str, float]:
    watch = Stopwatch()
    evolution = problem.evolution(OBJECTIVES["target_params"], settings)
    while not evolution.finished:
        for trial in evolution.ask(1):
            watch.pause()
            outcome = problem.outcome(trial)
            watch.go_on()
            evolution.tell([outcome])
        while evolution.retire() is not None:
            evolution.state()
    return watch.milliseconds_per(evolution.evaluations)


def _whole_controller(problem: Problem, settings: SearchSettings) -> dict[str, float]:
    with TemporaryDirectory() as folder:
        store = Store(f"sqlite:///{folder}/jobs.db")
        log = _job_log(store, Path(folder))
        watch = Stopwatch()
        scorer = TaskScorer(SyntheticRunner(problem, watch), problem.space, _task(), kl_weight=0.5)
        scorer.score_dense("search")
        plan = SearchPlan(space=problem.space, objective=OBJECTIVES["target_params"], settings=settings)
        evolution = search(plan, problem.energies, TrialScorer(scorer), 0.8, log)
        numbers = watch.milliseconds_per(evolution.evaluations)
        store.close()
    return numbers


def _job_log(store: Store, folder: Path) -> JobLog:
    task = {
        "kind": "choice",
        "prompt": "{{ text }}",
        "answer": "{{ label }}",
        "choices": ["good", "bad"],
        "data": {"source": {"path": "records.jsonl"}, "sizes": {"search": EXAMPLES}},
    }
    store.submissions.create_job(JobSpec.model_validate({"model": {"path": "model"}, "task": task}))
    job = store.claims.claim_next()
    assert job is not None
    return JobLog(store, job, folder)


def _task() -> EncodedTask:
    example = Example(rows=(Row(ids=(1,), spans=()),), choices=2, label=0, prompt_ids=(1,))
    return EncodedTask(
        kind="choice",
        splits=dict.fromkeys(("search", "confirm"), (example,) * EXAMPLES),
        max_new_tokens=1,
        digest="",
        split_digests={},
    )


def main() -> None:
    arguments = _arguments()
    results: dict[str, Any] = {}
    if "utilisation" in arguments.parts:
        results["utilisation"] = utilisation(arguments)
    if "quality" in arguments.parts:
        results["quality"] = quality(arguments)
    if "machinery" in arguments.parts:
        results["machinery"] = machinery(arguments)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


def _arguments() -> Namespace:
    options = ArgumentParser(description=__doc__, formatter_class=ArgumentDefaultsHelpFormatter)
    options.add_argument("--parts", nargs="+", choices=PARTS, default=["utilisation", "machinery"])
    options.add_argument("--searches", nargs="+", choices=tuple(SEARCHES), default=list(SEARCHES))
    options.add_argument("--objective", choices=tuple(OBJECTIVES), default="target_params")
    options.add_argument("--actors", nargs="+", type=int, default=list(ACTORS))
    options.add_argument("--controller-ms", type=float, default=0.0, help="for an outcome; see machinery")
    options.add_argument("--layers", type=int, default=4, help="of the simulated model; few, to breed faster")
    options.add_argument("--problems", type=int, default=16, help="of quality")
    options.add_argument("--budget-s", type=float, default=320.0, help="actor seconds of quality")
    options.add_argument("--evaluations", type=int, default=200, help="of the machinery")
    options.add_argument("--json", type=Path)
    return options.parse_args()


if __name__ == "__main__":
    main()
