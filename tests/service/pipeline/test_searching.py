"""Searches that are cut off and stopped at every moment, with scorers and a store in memory."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ranksieve.search.errors import CancelledError
from ranksieve.search.evolution.evolution import Evolution
from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.search.space.objectives import MaxDrop, TargetParams
from ranksieve.search.space.prices import Prices
from ranksieve.search.space.space import SearchSpace
from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import Job, JobState
from ranksieve.service.pipeline.search_plan import SearchPlan
from ranksieve.service.pipeline.searching import search
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.spec import JobSpec

SCORERS = 3
SETTINGS = SearchSettings(population=3, offspring=4, full=32, generations=4, max_evaluations=60, patience=9)
SPACE = SearchSpace(
    [
        MatrixShape(name=f"m{i}", out_features=o, in_features=d, layer=i, kind="m")
        for i, (o, d) in enumerate([(8, 8), (8, 16), (8, 24), (16, 8)])
    ],
    1,
)
ENERGIES = [scale * np.arange(1, 9.0) ** -decay for scale, decay in [(1, 1), (0.3, 2), (2, 0.5), (0.7, 1)]]
PRICES = Prices(SPACE, ENERGIES)
PLANS = [
    SearchPlan(space=SPACE, objective=objective, settings=SETTINGS)
    for objective in (TargetParams(share=0.5), MaxDrop(points=8.0))
]


def outcome_of(trial: Trial) -> Outcome:
    kl_nats = float(PRICES.lost_GL[PRICES.rows_G, list(trial.genome)].sum())
    kl_nats *= 1 + 0.01 * (sum(trial.genome) % 7) / trial.examples
    return Outcome(
        genome=trial.genome, examples=trial.examples, kl_nats=kl_nats, drop_points=kl_nats, metric=0.5
    )


class Scorer:
    """Scores a few trials at once, the last one started first; `meddle` is told before each is done."""

    def __init__(self, meddle: Callable[[int], None] = lambda done: None) -> None:
        self.scored: list[Trial] = []
        self._meddle = meddle

    def outcomes(self, ask: Callable[[int], Sequence[Trial]], confidence: float) -> Iterator[Outcome]:
        running: list[Trial] = []
        while True:
            running += ask(SCORERS - len(running))
            if not running:
                return
            self._meddle(len(self.scored))
            self.scored.append(running.pop())
            yield outcome_of(self.scored[-1])


class Memory:
    """What a store keeps of one job's search, as JSON."""

    def __init__(self) -> None:
        self.runs = self  # the part of a store that runs write to
        self.records: list[dict[str, Any]] = []
        self.candidates: list[dict[str, Any]] = []
        self.progress: list[tuple[int, int]] = []
        self._state = "null"

    def save_generation(
        self,
        id: str,
        record: Mapping[str, Any],
        candidates: Sequence[Mapping[str, Any]],
        state: Mapping[str, Any],
        *,
        epoch: int,
    ) -> None:
        self.records.append(dict(record))
        self.candidates += json.loads(json.dumps(list(candidates)))
        self._state = json.dumps(state)

    def search_state(self, id: str) -> Any:
        return json.loads(self._state)

    def memo(self, id: str) -> list[dict[str, Any]]:
        return self.candidates

    def append_event(self, id: str, type: EventType, data: Mapping[str, Any], *, epoch: int) -> None:
        assert type is EventType.PHASE_PROGRESS
        self.progress.append((data["done"], data["total"]))


@pytest.fixture
def make_log(tmp_path: Path, job: Job) -> Callable[[Memory], JobLog]:
    return lambda memory: JobLog(memory, job, tmp_path)  # type: ignore[arg-type]


@pytest.fixture
def job(make_spec: Callable[..., JobSpec]) -> Job:
    return Job(
        id="a", owner="admin", name="", labels={}, spec=make_spec(), state=JobState.SEARCHING,
        cancel_requested=False, created_at=datetime.now(UTC),
    )  # fmt: skip


MakeLog = Callable[[Memory], JobLog]


def run(plan: SearchPlan, scorer: Scorer, log: JobLog) -> Evolution:
    return search(plan, ENERGIES, scorer, 0.8, log)  # type: ignore[arg-type]


def undisturbed(plan: SearchPlan, make_log: MakeLog) -> tuple[Memory, Scorer, Evolution]:
    memory, scorer = Memory(), Scorer()
    return memory, scorer, run(plan, scorer, make_log(memory))


@pytest.mark.parametrize("plan", PLANS, ids=["target_params", "max_drop"])
def test_a_search_cut_off_at_any_moment_ends_as_if_undisturbed(make_log: MakeLog, plan: SearchPlan) -> None:
    expected, all_at_once, over = undisturbed(plan, make_log)
    total = len(all_at_once.scored)
    assert total > 15
    for moment in range(0, total, 2):
        memory = Memory()

        def cut_off(done: int, moment: int = moment) -> None:
            if done == moment:
                raise CancelledError("paused")

        with pytest.raises(CancelledError):
            run(plan, Scorer(cut_off), make_log(memory))
        evolution = run(plan, Scorer(), make_log(memory))

        assert evolution.finished
        assert memory.records == expected.records
        assert memory.candidates == expected.candidates
        assert evolution.finalists() == over.finalists()


@pytest.mark.parametrize("plan", PLANS, ids=["target_params", "max_drop"])
def test_a_search_cut_off_after_every_generation_ends_as_if_undisturbed(
    make_log: MakeLog, plan: SearchPlan
) -> None:
    expected, _, _ = undisturbed(plan, make_log)
    memory, runs, over = Memory(), 0, None
    while over is None:
        runs += 1

        def cut_off(done: int, saved: int = len(memory.records)) -> None:
            if len(memory.records) > saved:
                raise CancelledError("paused")

        with suppress(CancelledError):
            over = run(plan, Scorer(cut_off), make_log(memory))
    assert runs > 2
    assert memory.records == expected.records
    assert memory.candidates == expected.candidates


def test_progress_counts_what_an_earlier_run_has_scored_too(make_log: MakeLog) -> None:
    expected, _, _ = undisturbed(PLANS[0], make_log)
    memory = Memory()

    def cut_off(done: int) -> None:
        if len(memory.records) > 1:
            raise CancelledError("paused")

    with pytest.raises(CancelledError):
        run(PLANS[0], Scorer(cut_off), make_log(memory))
    saved, reported = len(memory.candidates), len(memory.progress)
    run(PLANS[0], Scorer(), make_log(memory))
    assert memory.progress[reported][0] == saved + 1
    assert memory.progress[-1] == expected.progress[-1]


@pytest.mark.parametrize("plan", PLANS, ids=["target_params", "max_drop"])
def test_a_stopped_search_is_that_of_a_job_with_so_many_generations(
    make_log: MakeLog, plan: SearchPlan
) -> None:
    _, all_at_once, _ = undisturbed(plan, make_log)
    stopped_after = set()
    for moment in range(0, len(all_at_once.scored), 3):
        memory = Memory()
        log = make_log(memory)
        scorer = Scorer(lambda done, log=log, at=moment: done == at and log.stopping.set())
        evolution = run(plan, scorer, log)

        generations = evolution.generation
        assert generations >= 0
        shorter = SearchSettings(**{**_values(SETTINGS), "generations": generations})
        as_asked = SearchPlan(space=SPACE, objective=plan.objective, settings=shorter)
        expected, _, over = undisturbed(as_asked, make_log)
        assert memory.records == expected.records
        assert evolution.finalists() == over.finalists()
        assert (evolution.evaluations, evolution.tokens) == (over.evaluations, over.tokens)
        stopped_after.add(generations)
        again = run(plan, Scorer(lambda done: pytest.fail("scores again")), _stopping(make_log(memory)))
        assert again.finalists() == evolution.finalists()
    assert len(stopped_after) > 1


def _stopping(log: JobLog) -> JobLog:
    log.stopping.set()
    return log


def _values(settings: SearchSettings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__dataclass_fields__}
