"""The division of a cluster: by hand, and as properties of every division."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranksieve.workers.cluster.fairness import Claim, amounts, divide, room

ONE = amounts(CPU=1)


def parts(capacity: float, *claims: tuple[int, int]) -> list[int]:
    """Of so many processors among jobs that want so many actors of one thread, with priorities."""
    asked = [Claim(wants=wants, size=ONE, priority=priority) for wants, priority in claims]
    return divide(amounts(CPU=capacity), asked)


@pytest.mark.parametrize(
    ("size", "nodes", "places"),
    [
        ({"GPU": 0.6}, [{"GPU": 2}], 2),
        ({"GPU": 0.3}, [{"GPU": 1}, {"GPU": 2}], 9),
        ({"GPU": 2}, [{"GPU": 3}, {"GPU": 8}], 5),
        ({"CPU": 3}, [{"CPU": 4}] * 3, 3),
        ({"CPU": 1}, [{"CPU": 4}, {"CPU": 3}], 7),
        ({"CPU": 1, "GPU": 1}, [{"CPU": 64, "GPU": 8}, {"CPU": 32}], 8),
    ],
)
def test_there_are_as_many_places_as_actors_fit_on_nodes_and_not_on_their_sum(
    size: dict[str, float], nodes: list[dict[str, float]], places: int
) -> None:
    taken = room(amounts(**size), [amounts(**node) for node in nodes])
    capacity = {name: sum(amounts(**node).get(name, 0) for node in nodes) for name in ("CPU", "GPU")}
    assert divide(capacity, [Claim(wants=99, size=taken)]) == [places]
    assert sum(divide(capacity, 2 * [Claim(wants=99, size=taken)])) == places


def test_what_is_left_over_of_one_resource_does_not_take_from_another() -> None:
    """A job beside it may compute on the processors that its actors on GPUs leave."""
    taken = room(amounts(CPU=1, GPU=1), [amounts(CPU=64, GPU=8)])
    assert divide(amounts(CPU=64, GPU=8), [Claim(wants=8, size=taken), Claim(wants=99, size=ONE)]) == [8, 56]


def test_equal_jobs_get_equal_parts_and_the_oldest_what_is_left_over() -> None:
    assert parts(6, (9, 0), (9, 0), (9, 0)) == [2, 2, 2]
    assert parts(8, (9, 0), (9, 0), (9, 0)) == [3, 3, 2]


def test_what_one_does_not_want_the_others_get() -> None:
    assert parts(10, (2, 0), (9, 0), (9, 0)) == [2, 4, 4]
    assert parts(10, (2, 0), (3, 0)) == [2, 3]


def test_a_higher_priority_gets_all_it_wants_but_for_one_actor_each() -> None:
    assert parts(8, (9, 0), (4, 5), (9, 0)) == [2, 4, 2]
    assert parts(4, (9, 0), (9, 5), (9, -5)) == [1, 2, 1]


def test_where_there_is_not_one_for_each_the_first_ones_run() -> None:
    assert parts(2, (9, 0), (9, 0), (9, 9)) == [1, 1, 0]
    assert parts(0.5, (9, 0)) == [0]


def test_parts_are_measured_by_what_a_job_takes_most_of() -> None:
    capacity = amounts(CPU=16, GPU=4)
    small, large = amounts(CPU=1), amounts(CPU=4)
    assert divide(amounts(CPU=16), [Claim(wants=99, size=small), Claim(wants=99, size=large)]) == [8, 2]
    on_gpus = Claim(wants=99, size=amounts(CPU=1, GPU=1))
    assert divide(capacity, [on_gpus, Claim(wants=99, size=small)]) == [4, 12]
    assert divide(capacity, [on_gpus, on_gpus, Claim(wants=99, size=small)]) == [2, 2, 12]


def test_fractions_of_a_gpu_add_up() -> None:
    tenth = Claim(wants=99, size=amounts(CPU=1, GPU=0.1))
    assert divide(amounts(CPU=64, GPU=1), [tenth]) == [10]


claims = st.lists(
    st.builds(
        Claim,
        wants=st.integers(1, 8),
        size=st.builds(lambda cpus, gpus: amounts(CPU=cpus, GPU=gpus), st.integers(1, 3), st.sampled_from([0, 0.5])),
        priority=st.integers(-1, 1),
    ),
    max_size=5,
)  # fmt: skip


@given(claims, st.integers(0, 20), st.integers(0, 2))
def test_no_division_takes_too_much_wastes_anything_or_lets_a_job_wait_for_one_that_could_give(
    claims: list[Claim], cpus: int, gpus: int
) -> None:
    capacity = amounts(CPU=cpus, GPU=gpus)

    given_ = divide(capacity, claims)

    taken = {
        name: sum(number * claim.size.get(name, 0) for number, claim in zip(given_, claims, strict=True))
        for name in ("CPU", "GPU")
    }
    assert all(taken[name] <= capacity.get(name, 0) for name in taken)
    free = {name: capacity.get(name, 0) - taken[name] for name in taken}
    for number, claim in zip(given_, claims, strict=True):
        assert number <= claim.wants
        if number < claim.wants:
            assert any(units > free[name] for name, units in claim.size.items())
    for index, one in enumerate(claims):
        for other_index, other in enumerate(claims):
            if given_[index] == 0 and given_[other_index] > 1:
                assert not all(
                    units <= free[name] + (given_[other_index] - 1) * other.size.get(name, 0)
                    for name, units in one.size.items()
                )
            equal = one.size == other.size and one.priority == other.priority
            if equal and given_[index] < min(one.wants, given_[other_index] - 1):
                raise AssertionError(f"{given_} is not fair to {index}")
