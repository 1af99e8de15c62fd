import json

import pytest

from ranksieve.search.evolution.outcome import Outcome
from ranksieve.search.evolution.population import Population


def scored(level: int, loss: float) -> Outcome:
    return Outcome(genome=(level, 0), examples=8, kl_nats=loss, drop_points=0.0, metric=1.0)


def test_the_best_of_members_and_newcomers_live() -> None:
    population = Population(2, hall_size=3, cost=sum)
    assert not population
    population.join([scored(1, 0.3), scored(2, 0.1)], 0.4)
    population.join([scored(3, 0.2)], 0.4)
    assert population.scored == [((2, 0), 0.1), ((3, 0), 0.2)]
    assert population.hall_of_fame == [(2, 0), (3, 0), (1, 0)]  # the hall is longer than the population


def test_members_bred_for_another_size_make_room() -> None:
    population = Population(2, hall_size=3, cost=sum)
    population.join([scored(1, 0.1)], 0.4)
    population.join([scored(2, 0.3)], 0.35)
    assert population.genomes == population.hall_of_fame == [(2, 0)]
    assert population.target_share == 0.35


def test_a_newcomer_that_is_a_member_is_not_there_twice() -> None:
    population = Population(3, hall_size=3, cost=sum)
    population.join([scored(1, 0.1)], 0.4)
    population.join([scored(1, 0.1), scored(2, 0.2)], 0.4)
    assert population.genomes == population.hall_of_fame == [(1, 0), (2, 0)]


def test_seeds_of_many_sizes_have_no_target_and_make_room_for_the_first_that_have_one() -> None:
    population = Population(2, hall_size=3, cost=sum)
    population.found([scored(3, 0.3), scored(1, 0.1), scored(2, 0.2)])
    assert population.genomes == [(3, 0), (1, 0)]  # the most wanted ones, not the best
    assert population.target_share is None
    population.join([scored(4, 0.9)], 0.4)
    assert population.genomes == [(4, 0)]


def test_a_population_goes_on_from_its_state() -> None:
    population, restored = Population(3, hall_size=2, cost=sum), Population(3, hall_size=2, cost=sum)
    population.join([scored(1, 0.1), scored(2, 0.1), scored(3, 0.2)], 0.4)  # two equals
    restored.restore(json.loads(json.dumps(population.state())))
    for one in (population, restored):
        one.join([scored(4, 0.1)], 0.4)
    assert restored.state() == population.state()
    assert population.summary() == pytest.approx(
        {"loss_min": 0.1, "loss_avg": 0.1, "loss_max": 0.1, "loss_std": 0.0}
    )


def test_of_equals_in_all_the_order_is_the_same_after_a_resume() -> None:
    population, restored = Population(3, hall_size=3, cost=len), Population(3, hall_size=3, cost=len)
    for level in (1, 2, 3):
        population.join([scored(level, 0.1)], 0.4)
    restored.restore(json.loads(json.dumps(population.state())))
    assert restored.hall_of_fame == population.hall_of_fame
    assert len(set(population.hall_of_fame)) == 3


def test_of_equals_the_one_that_costs_less_comes_first_everywhere() -> None:
    population = Population(3, hall_size=3, cost=sum)
    population.join([scored(2, 0.1)], 0.4)
    population.join([scored(3, 0.1), scored(1, 0.1), scored(9, 0.05)], 0.4)
    assert population.genomes == population.hall_of_fame == [(9, 0), (1, 0), (2, 0)]
