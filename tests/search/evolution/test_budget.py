"""Limits changed in mid-search: either nobody could tell, or they are refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ranksieve.search.errors import ConflictError
from ranksieve.search.evolution.budget import check_limits
from ranksieve.search.evolution.evolution import Evolution
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.objectives import MaxDrop, Objective, Pareto, TargetParams

SETTINGS = SearchSettings(
    population=4, offspring=6, survivors=2, screen=8, full=32, generations=6, max_evaluations=60, patience=9
)
OBJECTIVES = [
    MaxDrop(points=2.0),
    TargetParams(share=0.4),
    Pareto(smallest=0.2, largest=0.8, sizes=4, finalists=3, points=2.0),
]
LIMITS = [
    {"generations": generations, "max_evaluations": evaluations}
    for generations in (2, 5, 6, 9)
    for evaluations in (25, 40, 60, 90)
]


class Saves:
    """A search run to its end, and what it saved after every generation."""

    def __init__(self, problem: Any, evolution: Evolution) -> None:
        self.evolution = evolution
        self.states: list[dict[str, Any]] = []
        self.outcomes: list[list[Any]] = []
        self.records: list[dict[str, Any]] = []
        while True:
            while (record := evolution.retire()) is not None:
                self.states.append(json.loads(json.dumps(evolution.state())))
                self.outcomes.append(list(record.outcomes))
                self.records.append(record.to_json())
            if not (trials := evolution.ask(3)):
                break
            evolution.tell(problem.score(trials[::-1]))


def start(problem: Any, objective: Objective, settings: SearchSettings) -> Saves:
    return Saves(problem, Evolution(problem.space, problem.energies, objective, settings))


def go_on(problem: Any, objective: Objective, before: SearchSettings) -> tuple[int, int]:
    """Goes on from everything saved with all other limits; returns how many were accepted and refused."""
    former = start(problem, objective, before)
    accepted = refused = 0
    for number, state in enumerate(former.states):
        for limits in LIMITS:
            try:
                check_limits(state, **limits)
            except ConflictError:
                refused += 1
                continue
            accepted += 1
            after = replace(before, **limits)
            memo = [outcome for outcomes in former.outcomes[: number + 1] for outcome in outcomes]
            going_on = Evolution(problem.space, problem.energies, objective, after, memo=memo, state=state)
            records = former.records[: number + 1] + Saves(problem, going_on).records
            expected = start(problem, objective, after)
            assert records == expected.records
            assert going_on.finalists() == expected.evolution.finalists()
    return accepted, refused


@pytest.mark.parametrize("objective", OBJECTIVES, ids=["max_drop", "target_params", "pareto"])
@pytest.mark.parametrize("overlap", [1, 2, 3])
def test_limits_that_are_not_refused_are_as_if_they_had_been_there_from_the_start(
    make_problem: Callable[..., Any], objective: Objective, overlap: int
) -> None:
    accepted, refused = go_on(make_problem(layers=2), objective, replace(SETTINGS, overlap=overlap))
    assert accepted > 10
    assert refused > 10


@pytest.mark.parametrize("objective", OBJECTIVES, ids=["max_drop", "target_params", "pareto"])
@pytest.mark.parametrize("overlap", [1, 2])
@pytest.mark.parametrize("evaluations", [10, 23])
def test_a_search_that_its_limits_have_cut_short_is_not_gone_on_with_as_another(
    make_problem: Callable[..., Any], objective: Objective, overlap: int, evaluations: int
) -> None:
    before = replace(SETTINGS, overlap=overlap, max_evaluations=evaluations)
    _, refused = go_on(make_problem(layers=2), objective, before)
    assert refused > 10


def test_a_refusal_says_what_is_possible(make_problem: Callable[..., Any]) -> None:
    saved = start(make_problem(layers=2), TargetParams(share=0.4), SETTINGS)
    early, last = saved.states[0], saved.states[-1]

    with pytest.raises(ConflictError, match="generations must be at least 2, which is bred already, got 1"):
        check_limits(early, generations=1, max_evaluations=60)
    with pytest.raises(ConflictError, match=r"max_evaluations must be at least \d+, .* got 5; stop the job"):
        check_limits(early, generations=6, max_evaluations=5)
    with pytest.raises(ConflictError, match="ending by its old limits already"):
        check_limits(last, generations=60, max_evaluations=600)


def test_a_search_saved_by_an_earlier_version_keeps_its_limits(make_problem: Callable[..., Any]) -> None:
    state = start(make_problem(layers=2), TargetParams(share=0.4), SETTINGS).states[0]
    del state["budget"]

    with pytest.raises(ConflictError):
        check_limits(state, generations=60, max_evaluations=600)
