import json
from dataclasses import replace

import pytest

from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.evolution.schedules import SEED_SHARES, FixedTarget, Ratchet, schedule_for, seed_shares
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.search.space.objectives import MaxDrop, TargetParams
from ranksieve.search.space.space import SearchSpace


def dropping(points: float) -> Outcome:
    return Outcome(genome=(0,), examples=8, kl_nats=0.1, drop_points=points, metric=0.5)


def matrix(name: str) -> MatrixShape:
    return MatrixShape(name=name, out_features=16, in_features=16, layer=0, kind=name)


SPACE = SearchSpace([matrix("a"), matrix("b")], 2)
SHARES = (0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2)
FAILED = Outcome.failed(Trial(genome=(0,), examples=8), "NaN")


def ratchet(seeds: int = 4, patience: int = 2) -> Ratchet:
    """A ratchet whose `seeds` largest seeds hold."""
    made = Ratchet(MaxDrop(points=2.0), patience=patience)
    made.start([(share, dropping(1.0 if i < seeds else 5.0)) for i, share in enumerate(SHARES)])
    return made


@pytest.mark.parametrize(
    ("drops", "accepted"),
    [
        ([0.5, 1.0, 3.0, 1.0, 9.0, 9.0, 9.0, 9.0], [0.6, 0.5]),  # 0.4 holds by luck: 0.45 does not
        ([3.0, 1.0, 1.0, 3.0, 1.0, 1.0, 9.0, 1.0], [0.5, 0.45, 0.35, 0.3]),  # 0.6 and 0.4 fail by bad luck
        ([1.0, 3.0, 1.0, 3.0, 9.0, 9.0, 9.0, 9.0], [0.6]),
    ],
)
def test_start_below_the_smallest_seed_that_holds_like_the_next_larger_one(
    drops: list[float], accepted: list[float]
) -> None:
    made = Ratchet(MaxDrop(points=2.0), patience=6)
    assert made.start([(share, dropping(d)) for share, d in zip(SHARES, drops, strict=True)])
    assert [entry.share for entry in made.accepted] == accepted
    assert made.target == pytest.approx(accepted[-1] - 0.04)


def test_where_no_seed_holds_the_search_starts_large_and_approaches_dense() -> None:
    made = ratchet(seeds=0)
    assert made.target == 0.85
    targets = []
    while not made.finished:
        targets.append(made.target)
        made.observe(dropping(5.0), 0.5, target=made.target, improved=True)
    assert targets == pytest.approx([0.85, 0.925, 0.9625, 0.98125, 0.990625])
    assert made.accepted == []


def test_a_target_is_accepted_by_the_bound_of_its_drop() -> None:
    made = ratchet()
    held = made.accepted[-1].share
    unsure = replace(dropping(1.0), drop_bound=2.1)
    assert not made.observe(unsure, made.target, target=made.target, improved=True)
    assert made.accepted[-1].share == held
    assert made.observe(replace(unsure, drop_bound=2.0), made.target, target=made.target, improved=True)


def test_a_failed_seed_ends_the_run_of_good_ones() -> None:
    made = Ratchet(MaxDrop(points=2.0), patience=6)
    made.start([(0.7, dropping(0.0)), (0.6, FAILED), (0.5, None), (0.45, dropping(0.0))])
    assert [entry.share for entry in made.accepted] == [0.7]


def test_acceptance_lowers_the_target_by_a_step() -> None:
    made = ratchet(seeds=4)
    assert made.target == pytest.approx(0.36)
    assert made.observe(dropping(2.0), 0.36, target=made.target, improved=True)
    assert made.target == pytest.approx(0.32)
    assert made.accepted[-1].share == 0.36


def test_a_stall_backs_off_in_ever_smaller_steps_until_finished() -> None:
    made = ratchet(seeds=4, patience=4)  # two generations per target
    targets = []
    while not made.finished:
        targets.append(made.target)
        assert not made.observe(dropping(5.0), 0.3, target=made.target, improved=True)
    assert targets == pytest.approx([0.36, 0.36, 0.38, 0.38, 0.39, 0.39, 0.395, 0.395])


def test_a_generation_bred_for_more_than_what_holds_by_now_proves_nothing() -> None:
    made = ratchet(seeds=4)  # 0.4 holds
    before = made.state()
    for drop in (0.0, 5.0):
        assert not made.observe(dropping(drop), 0.41, target=0.42, improved=True)
    assert made.state() == before


def test_a_failure_below_the_present_target_does_not_count_against_it() -> None:
    made = ratchet(seeds=4, patience=2)
    smaller = made.target
    made.observe(dropping(5.0), 0.36, target=smaller, improved=False)
    assert made.target == pytest.approx(0.38)
    before = made.state()
    assert not made.observe(dropping(5.0), 0.36, target=smaller, improved=False)
    assert made.state() == before
    assert made.observe(dropping(0.0), 0.36, target=smaller, improved=False)  # a success there counts
    assert made.target == pytest.approx(0.34)


def test_no_incumbent_is_no_acceptance() -> None:
    assert not ratchet().observe(None, 0.3, target=0.3, improved=False)


def test_the_target_stays_above_nothing() -> None:
    made = Ratchet(MaxDrop(points=100.0), patience=2)
    made.start([(0.03, dropping(0.0))])
    targets = []
    while not made.finished:
        targets.append(made.target)
        made.observe(dropping(0.0), made.target, target=made.target, improved=True)
    assert min(targets) > 0
    assert targets[0] == pytest.approx(0.01)


def test_a_ratchet_goes_on_from_its_state() -> None:
    made, restored = ratchet(), Ratchet(MaxDrop(points=2.0), patience=2)
    made.observe(dropping(5.0), 0.36, target=0.36, improved=False)
    restored.restore(json.loads(json.dumps(made.state())))
    for schedule in (made, restored):
        schedule.observe(dropping(1.0), 0.38, target=0.38, improved=False)
    assert restored.state() == made.state()
    assert restored.accepted == made.accepted


def test_a_fixed_target_ends_after_patience_without_improvement() -> None:
    fixed = schedule_for(TargetParams(share=0.3), SPACE, patience=2)
    assert isinstance(fixed, FixedTarget)
    for improved in (True, False, True, False):
        assert not fixed.observe(dropping(0.0), 0.3, target=0.3, improved=improved)
        assert not fixed.finished
    restored = FixedTarget(0.3, patience=2)
    restored.restore(json.loads(json.dumps(fixed.state())))
    restored.observe(dropping(0.0), 0.3, target=0.3, improved=False)
    assert restored.finished
    assert restored.target == 0.3


def test_a_ratchet_stays_within_what_the_space_can_be(bounded: SearchSpace) -> None:
    made = schedule_for(MaxDrop(points=2.0), bounded, patience=2)
    assert isinstance(made, Ratchet)
    assert made.target == pytest.approx(0.25 + 0.85 * 0.5)
    targets = []
    while not made.finished:  # whatever is tried is good enough
        targets.append(made.target)
        made.observe(dropping(0.0), made.target, target=made.target, improved=True)
    assert min(targets) > 0.25
    assert targets[-1] < 0.26
    refusing = schedule_for(MaxDrop(points=2.0), bounded, patience=2)
    while not refusing.finished:
        assert refusing.target < 0.75
        refusing.observe(dropping(5.0), refusing.target, target=refusing.target, improved=False)


def test_a_ratchet_with_nothing_below_is_finished() -> None:
    made = Ratchet(MaxDrop(points=2.0), patience=2, smallest=0.25)
    made.start([(0.4, dropping(1.0)), (0.25, dropping(1.5))])
    assert made.finished
    assert made.accepted[-1].share == 0.25


def test_seeds_of_a_model_without_its_last_blocks_are_as_much_smaller() -> None:
    cut = SearchSpace([matrix("a")], 2, absent=[matrix("b"), matrix("c")])
    assert cut.largest_share == pytest.approx(1 / 3)
    assert seed_shares(SPACE) == SEED_SHARES
    assert seed_shares(cut) == pytest.approx([share / 3 for share in SEED_SHARES])


@pytest.mark.parametrize("largest", [1.0, 0.4])
def test_the_target_falls_in_steps_that_suit_the_largest_genome(largest: float) -> None:
    made = Ratchet(MaxDrop(points=1.0), patience=2, largest=largest)
    assert made.take(dropping(0.0), 0.5 * largest)
    assert made.target == pytest.approx(0.46 * largest)
