from itertools import count

import pytest
from baselines.batches import BatchSearch, Stage, Strategy, race

from ranksieve.search.errors import ConflictError
from ranksieve.search.evolution.outcome import Outcome, Trial

GENOMES = [(i, 0, 0) for i in range(5)]
STAGES = (Stage(examples=4, survivors=3), Stage(examples=16, survivors=2))


def score(trial: Trial) -> Outcome:
    if trial.genome == GENOMES[0]:
        return Outcome.failed(trial, "not finite", tokens=trial.examples)
    return Outcome(
        genome=trial.genome,
        examples=trial.examples,
        kl_nats=float(trial.genome[0]),
        drop_points=0.0,
        metric=1.0,
        tokens=trial.examples,
    )


def raced(results: list[list[Outcome]], repeats: int = 1) -> Strategy:
    for _ in range(repeats):
        finishers = yield from race([*GENOMES, GENOMES[1]], STAGES)
        results.append(finishers)


def trials(examples: int, *indices: int) -> list[Trial]:
    return [Trial(genome=GENOMES[i], examples=examples) for i in indices]


def test_a_race_promotes_the_best_and_drops_failures() -> None:
    results: list[list[Outcome]] = []
    search = BatchSearch(raced(results))
    asked = search.ask()
    assert asked == trials(4, 0, 1, 2, 3, 4)
    search.tell([score(trial) for trial in reversed(asked)])
    asked = search.ask()
    assert asked == trials(16, 1, 2, 3)
    search.tell(map(score, asked))
    assert [outcome.trial for outcome in results[0]] == trials(16, 1, 2)
    assert (search.finished, search.evaluations, search.tokens) == (True, 8, 5 * 4 + 3 * 16)


def test_trials_go_out_in_portions_and_once() -> None:
    search = BatchSearch(raced([], repeats=2))
    first, rest = search.ask(2), search.ask()
    assert (len(first), len(rest)) == (2, 3)
    assert search.ask() == []
    search.tell(map(score, rest))
    assert search.ask() == []
    search.tell(map(score, first))
    search.tell(map(score, search.ask()))
    assert search.finished  # the second race was known
    assert search.evaluations == 8
    assert search.retire() is None


def test_a_strategy_that_proposes_nothing_new_any_more_is_over() -> None:
    closed: list[bool] = []

    def endless() -> Strategy:
        try:
            for batch in count():
                yield from race(GENOMES[: 2 + (batch == 100)], STAGES[:1])
        finally:
            closed.append(True)

    search = BatchSearch(endless())
    search.tell(map(score, search.ask()))
    (late,) = search.ask()
    assert late == trials(4, 2)[0]  # a while without news is not the end
    search.tell([score(late)])
    assert (search.finished, closed) == (True, [True])
    assert (search.ask(), search.evaluations) == ([], 3)


def test_misuse_says_what_to_do() -> None:
    search = BatchSearch(raced([]))
    (first,) = search.ask(1)
    with pytest.raises(ConflictError, match="not asked for, or was told before"):
        search.tell([score(trials(4, 1)[0])])
    search.tell([score(first)])
    with pytest.raises(ConflictError, match="tell every trial of ask once"):
        search.tell([score(first)])
