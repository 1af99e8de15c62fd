"""Steps along slopes: which are taken together, and which never."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranksieve.search.space.genes import Gene, Tie
from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start import choice
from ranksieve.search.start.choice import HARM
from ranksieve.search.start.descent import RUNG, Steps, trust

STEP = 2
MANY = 100_000
"""Examples: so many are trusted."""


def shape(name: str, width: int = 64) -> MatrixShape:
    return MatrixShape(name=name, out_features=width, in_features=64, layer=int(name), kind="m")


SPACE = SearchSpace([shape("0"), shape("1"), shape("2", width=128)], STEP)
GENOME = (4, 4, 4)
COST = SPACE.cost(GENOME)


def slopes(examples: int = MANY, **columns: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Slopes of nothing but what is named: `kept0` of the first matrix's components below its rank."""
    kept_EM, cut_EM = np.zeros((2, examples, len(SPACE.matrices)))
    for name, column in columns.items():
        {"kept": kept_EM, "cut": cut_EM}[name[:-1]][:, int(name[-1])] = column
    return kept_EM, cut_EM


def descended(
    space: SearchSpace, genome: Genome, kept_EM: np.ndarray, cut_EM: np.ndarray, budget: int
) -> tuple[Genome, float]:
    found = Steps(space, genome, kept_EM, cut_EM).best(budget)
    assert found is not None
    return found


def moved(budget: int = COST, **columns: np.ndarray | float) -> tuple[int, ...]:
    genome, _ = descended(SPACE, GENOME, *slopes(**columns), budget)
    return tuple(new - old for new, old in zip(genome, GENOME, strict=True))


def wave(deviation: float, mean: float = 0.0) -> np.ndarray:
    return mean + deviation * np.where(np.arange(MANY) % 2, 1.0, -1.0)


def test_without_slopes_nothing_moves() -> None:
    assert moved(budget=2 * COST) == (0, 0, 0)


def test_what_promises_and_is_paid_for_is_added() -> None:
    dear = {"kept1": -1.0, "kept2": -1.0}
    assert moved(budget=COST + 2 * STEP * 64, cut0=-0.1, **dear) == (1, 0, 0)
    assert moved(budget=COST + 2 * STEP * 64 - 1, cut0=-0.1, **dear) == (0, 0, 0)


def test_what_does_harm_is_cut_and_no_more_is_said_of_what_it_frees() -> None:
    assert moved(kept1=0.1) == (0, -1, 0)  # a gate's slope is positive: the loss falls where it closes


def test_one_pays_for_the_other_if_that_costs_less_than_it_brings() -> None:
    assert moved(cut0=-0.1, kept1=-0.09, kept2=-0.08) == (1, 0, -1)
    assert moved(cut0=-0.1, kept1=-0.11, kept2=-0.12) == (0, 0, 0)


def test_a_mean_is_worth_taking_where_it_outweighs_the_variance() -> None:
    deviation = 0.1
    harm = HARM * deviation**2
    assert moved(kept0=wave(deviation, 1.1 * harm)) == (-1, 0, 0)
    assert moved(kept0=wave(deviation, 0.9 * harm)) == (0, 0, 0)


def test_steps_whose_changes_cancel_are_taken_together() -> None:
    together = {"kept0": wave(0.1, 0.005), "kept1": wave(-0.1, 0.005)}
    assert moved(**together) == (-1, -1, 0)
    assert moved(kept0=wave(0.1, 0.005), kept1=wave(0.1, 0.005)) == (0, 0, 0)


def test_means_are_trusted_by_how_much_more_they_are_than_chance() -> None:
    change_ES = np.array([[1.0, 6.0], [3.0, 0.0]])
    # means 2 and 3, variances 2 and 18: ratios 2 and 1/2, by chance 1/2
    assert trust(change_ES) == pytest.approx(1 - 0.5 / 1.25)
    assert trust(change_ES - change_ES.mean(axis=0)) == 0
    assert trust(np.array([[0.4], [2.0]])) == pytest.approx(1 - 0.5 / (1.2**2 / 1.28))
    assert trust(np.array([[0.4, 1.0], [2.0, 1.0]])) == trust(np.array([[0.4], [2.0]]))
    assert trust(np.ones((4, 2))) == 1


@pytest.mark.parametrize("ratio", [0.5, 3.0])
def test_trusted_means_are_those_of_other_examples(ratio: float) -> None:
    """Where truth varies over the steps as `ratio` times the noise does, the share of it that is expected again."""
    examples, steps = 500, 4000
    rng = np.random.default_rng(0)
    deviation_S = rng.uniform(0.1, 3.0, steps)  # some steps change examples more than others
    truth_S = deviation_S * rng.normal(0.0, np.sqrt(ratio / examples), steps)
    here_ES, there_ES = truth_S + deviation_S * rng.normal(size=(2, examples, steps))
    here_S, there_S = (change_ES.mean(axis=0) / deviation_S for change_ES in (here_ES, there_ES))
    assert trust(here_ES) == pytest.approx(ratio / (1 + ratio), abs=0.03)
    assert trust(here_ES) == pytest.approx(here_S @ there_S / (here_S @ here_S), abs=0.03)


@pytest.mark.parametrize("spread", [0.05, 0.4])
def test_what_is_expected_is_the_trusted_mean_and_the_harm_of_the_variance(spread: float) -> None:
    kept = np.array([0.1 - spread, 0.1 + spread] * 50)
    _, expected = descended(SPACE, GENOME, *slopes(100, kept0=kept), COST)
    trusted = -0.1 * (1 - spread**2 / 99 / 0.1**2)
    assert expected == pytest.approx(min(0.0, trusted + HARM * spread**2))


def test_where_all_is_chance_nothing_moves() -> None:
    rng = np.random.default_rng(0)
    kept_EM = rng.normal(size=(100, 3))
    kept_EM += 0.05 - kept_EM.mean(axis=0)  # less than by chance
    assert descended(SPACE, GENOME, 1e-3 * kept_EM, np.zeros((100, 3)), COST) == (GENOME, 0.0)


def test_one_example_tells_nothing() -> None:
    assert descended(SPACE, GENOME, *slopes(1, kept0=0.1), COST) == (GENOME, 0.0)


def test_no_step_leads_to_dense_or_to_nothing_or_from_there() -> None:
    top = len(SPACE.genes[0].levels) - 1
    assert SPACE.genes[0].levels[top] == (DENSE,)
    for genome in ((top, 1, 4), (top - 1, 0, 4)):
        kept_EM, cut_EM = slopes(cut0=-1.0, cut1=-1.0, kept1=1.0)
        kept_EM[:, 0] = 1.0 if genome[0] == top else -1.0
        ended, _ = descended(SPACE, genome, kept_EM, cut_EM, 10 * COST)
        assert ended[0] == genome[0]
        assert ended[1] == (2 if genome[1] == 1 else 0)


def test_tied_matrices_step_together() -> None:
    tied = SearchSpace([shape("0"), shape("1"), shape("2")], STEP, ties=[Tie(members=(0, 2), field="t")])
    kept_EM, cut_EM = slopes(kept0=0.2, kept2=-0.1)
    assert descended(tied, (4, 4), kept_EM, cut_EM, COST)[0] == (3, 4)
    kept_EM, cut_EM = slopes(kept0=0.2, kept2=-0.3)
    assert descended(tied, (4, 4), kept_EM, cut_EM, COST)[0] == (4, 4)


@st.composite
def situations(draw: st.DrawFn) -> tuple[SearchSpace, Genome, np.ndarray, np.ndarray, int]:
    widths = draw(st.lists(st.sampled_from([16, 32, 64, 128]), min_size=1, max_size=6))
    space = SearchSpace([shape(str(i), width) for i, width in enumerate(widths)], STEP)
    genome = tuple(draw(st.integers(0, len(gene.levels) - 1)) for gene in space.genes)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kept_EM, cut_EM = rng.normal(0.01, draw(st.sampled_from([0.001, 0.1, 3.0])), (2, 40, len(widths)))
    return space, genome, kept_EM, cut_EM, space.cost(genome) + draw(st.integers(0, 500))


def is_small(gene: Gene, old: int, new: int) -> bool:
    """Neither from nor to nothing or dense."""
    return min(new, old) > 0 and max(new, old) < len(gene.levels) - 1


def test_too_large_a_genome_sheds_what_costs_the_loss_least() -> None:
    costs = {"kept0": -0.1, "kept1": -0.4, "kept2": -0.12}
    narrow, wide = (
        SPACE.cost((1, 1, 1)) - SPACE.cost((0, 1, 1)),
        SPACE.cost((1, 1, 1)) - SPACE.cost((1, 1, 0)),
    )
    assert moved(budget=COST - 1, **costs) == (-1, 0, 0)
    assert moved(budget=COST - narrow, **costs) == (-1, 0, 0)
    assert moved(budget=COST - narrow - 1, **costs) == (0, 0, -1)
    assert moved(budget=COST - wide - 1, **costs) == (-1, 0, -1)


def test_what_was_shed_may_pay_for_something_else() -> None:
    assert moved(budget=COST - 1, kept0=-0.1, kept1=-1.0, kept2=-0.12, cut1=-0.5) == (0, 1, -1)


def test_no_steps_lead_below_the_last_ranks() -> None:
    unsloped = Steps(SPACE, (1, 1, 2), *slopes())
    assert unsloped.best(SPACE.cost((1, 1, 1))) == ((1, 1, 1), 0.0)
    assert unsloped.best(SPACE.cost((1, 1, 1)) - 1) is None
    assert Steps(SPACE, GENOME, *slopes(1)).best(COST - 1) is None  # of one example, nothing is known


def test_rungs_are_the_best_of_their_sizes_down_to_half_of_what_steps_shed_and_up_as_far_as_they_lead() -> (
    None
):
    share = SPACE.cost_share(GENOME) + 1e-6
    found = Steps(SPACE, GENOME, *slopes(kept0=-0.1, kept1=-0.4, kept2=-0.12, cut0=-0.3, cut1=-0.2))
    ladder = found.ladder(share)
    assert next(iter(ladder)) == pytest.approx(share, abs=1e-6)
    for size, rung in ladder.items():
        assert found.best(SPACE.budget(size)) == rung
    lowest, highest = min(ladder), max(ladder)
    half = (SPACE.cost_share(GENOME) + SPACE.cost_share((3, 3, 3))) / 2
    assert lowest - RUNG < half <= lowest
    assert ladder[highest][0] == (5, 5, 4)  # the third one's next components are worth nothing
    assert SPACE.cost(ladder[round(highest - RUNG, 6)][0]) < SPACE.cost((5, 5, 4))
    assert np.allclose(np.diff(sorted(ladder)), RUNG)


def test_the_size_that_is_wanted_is_there_wherever_steps_lead() -> None:
    wanted = SPACE.cost_share((3, 3, 3)) + 1e-6
    ladder = Steps(SPACE, GENOME, *slopes(kept0=-0.1, kept1=-0.4, kept2=-0.12)).ladder(wanted)
    assert ladder[wanted][0] == (3, 3, 3)
    assert min(ladder) == wanted
    assert not Steps(SPACE, GENOME, *slopes(kept0=-0.1)).ladder(wanted - 2e-6)


@given(situations())
def test_a_descent_stays_in_the_space_and_the_budget_and_never_expects_a_rise(
    situation: tuple[SearchSpace, Genome, np.ndarray, np.ndarray, int],
) -> None:
    space, genome, _, _, budget = situation
    ended, expected = descended(*situation)
    assert space.validate(ended) == ended
    assert space.cost(ended) <= budget
    assert all(abs(new - old) <= 1 for new, old in zip(ended, genome, strict=True))
    assert expected <= 0
    assert (ended == genome) == (expected == 0)
    assert descended(*situation) == (ended, expected)


@given(situations())
def test_no_single_step_more_would_be_better(
    situation: tuple[SearchSpace, Genome, np.ndarray, np.ndarray, int],
) -> None:
    """Against the formula itself, written out for one genome after another."""
    space, genome, kept_EM, cut_EM, budget = situation
    ended, expected = descended(*situation)
    small_steps = [
        cut_EM[:, i] if sign > 0 else -kept_EM[:, i]
        for i, gene in enumerate(space.genes)
        for sign in (1, -1)
        if is_small(gene, genome[i], genome[i] + sign)
    ]
    trusted = trust(np.stack(small_steps, axis=1)) if small_steps else 1.0

    def change(other: Genome) -> float:
        change_E = np.zeros(len(kept_EM))
        for i, (new, old) in enumerate(zip(other, genome, strict=True)):
            change_E += cut_EM[:, i] if new > old else -kept_EM[:, i] if new < old else 0.0
        return float(trusted * change_E.mean() + HARM * change_E.var())

    assert change(ended) == pytest.approx(expected, abs=1e-9)
    for i, gene in enumerate(space.genes):
        for level in (genome[i] - 1, genome[i], genome[i] + 1):
            other = (*ended[:i], level, *ended[i + 1 :])
            direct = genome[i] in (ended[i], level)  # not from one side to the other in one go
            allowed = level == genome[i] or is_small(gene, genome[i], level)
            if allowed and direct and space.cost(other) <= budget:
                assert change(other) >= expected - 1e-8


def test_the_dense_size_has_a_rung_of_its_own_and_none_above() -> None:
    ladder = Steps(SPACE, GENOME, *slopes(cut0=-0.3)).ladder(1.0)
    assert next(iter(ladder)) == max(ladder) == 1.0
    assert ladder[1.0][0] == (5, 4, 4)


@pytest.fixture(scope="module")
def wide() -> tuple[SearchSpace, Genome, np.ndarray, np.ndarray]:
    """A space of 120 matrices, and slopes of 200 examples there: some shared, some of each step's own, some noise."""
    rng, matrices = np.random.default_rng(0), 120
    space = SearchSpace(
        [shape(str(number), width=int(rng.choice([64, 128]))) for number in range(matrices)], STEP
    )
    genome = tuple(int(rng.integers(2, len(gene.levels) - 3)) for gene in space.genes)
    shared = rng.normal(size=(200, 5)) @ rng.normal(scale=0.02, size=(5, 2 * matrices))
    own = rng.normal(scale=0.03, size=(200, 2 * matrices)) - np.abs(
        rng.normal(scale=0.004, size=2 * matrices)
    )
    kept_EM, cut_EM = np.split(shared + own, 2, axis=1)
    return space, genome, kept_EM, cut_EM


@pytest.mark.parametrize("part", [0.985, 1.0, 1.01])
def test_of_many_steps_as_much_is_expected(
    wide: tuple[SearchSpace, Genome, np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch, part: float
) -> None:
    space, genome, kept_EM, cut_EM = wide
    budget = int(part * space.cost(genome))
    _, expected = descended(space, genome, kept_EM, cut_EM, budget)
    monkeypatch.setattr(choice, "MANY", 100)
    monkeypatch.setattr(choice, "NEAR", 60)
    monkeypatch.setattr(choice, "AT_ONCE", 0.02)

    there, nearly = descended(space, genome, kept_EM, cut_EM, budget)

    assert space.cost(there) <= budget
    assert max(abs(new - old) for new, old in zip(there, genome, strict=True)) == 1
    assert nearly < expected + 0.2 * abs(expected)
    steps = Steps(space, genome, kept_EM, cut_EM)
    assert steps.best(budget) == (there, nearly)
