"""The division of a cluster: by hand, and as properties of every division."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranksieve.workers.cluster.fairness import Claim, divide
from ranksieve.workers.cluster.packing import Room, amounts

ONE = amounts(CPU=1)

Shape = dict[str, float]


def named(*nodes: Shape) -> dict[str, dict[str, int]]:
    return {str(index): amounts(**node) for index, node in enumerate(nodes)}


def counts(nodes: dict[str, dict[str, int]], *claims: Claim) -> list[int]:
    """How many actors each job gets."""
    return [given_.total() for given_ in divide(nodes, claims)]


def parts(capacity: float, *claims: tuple[int, int]) -> list[int]:
    """Of so many processors among jobs that want so many actors of one thread, with priorities."""
    asked = [Claim(wants=wants, size=ONE, priority=priority) for wants, priority in claims]
    return counts(named({"CPU": capacity}), *asked)


@pytest.mark.parametrize(
    ("size", "nodes", "places"),
    [
        ({"GPU": 0.6}, [{"GPU": 2}], 2),
        ({"GPU": 0.3}, [{"GPU": 1}, {"GPU": 2}], 9),
        ({"GPU": 2}, [{"GPU": 3}, {"GPU": 8}], 5),
        ({"CPU": 3}, [{"CPU": 4}] * 3, 3),
        ({"CPU": 1}, [{"CPU": 4}, {"CPU": 3}], 7),
        ({"CPU": 1, "GPU": 1}, [{"CPU": 64, "GPU": 8}, {"CPU": 32}], 8),
        ({"CPU": 4, "GPU": 1}, [{"CPU": 16, "GPU": 8}, {"CPU": 16}], 4),
        ({"CPU": 4, "GPU": 1}, [{"CPU": 16}], 0),
    ],
)
def test_there_are_as_many_places_as_actors_fit_on_nodes_and_not_on_their_sum(
    size: Shape, nodes: list[Shape], places: int
) -> None:
    claim = Claim(wants=99, size=amounts(**size))
    assert counts(named(*nodes), claim) == [places]
    assert sum(counts(named(*nodes), claim, claim)) == places


def test_what_is_left_over_of_one_resource_does_not_take_from_another() -> None:
    """A job beside it may compute on the processors that its actors on GPUs leave."""
    on_gpus = Claim(wants=8, size=amounts(CPU=1, GPU=1))
    assert counts(named({"CPU": 64, "GPU": 8}), on_gpus, Claim(wants=99, size=ONE)) == [8, 56]


def test_small_actors_are_spread_and_those_of_several_gpus_packed() -> None:
    nodes = named({"CPU": 8, "GPU": 8}, {"CPU": 8, "GPU": 8}, {"CPU": 8})
    small, large = (Claim(wants=4, size=amounts(CPU=1, GPU=gpus)) for gpus in (1, 2))
    assert divide(nodes, [small]) == [{"0": 2, "1": 2}]
    assert divide(nodes, [large]) == [{"0": 4}]
    assert divide(nodes, [Claim(wants=4, size=ONE)]) == [{"2": 4}]  # not where the GPUs are


def test_actors_stay_where_they_are_until_another_job_needs_the_node() -> None:
    nodes = named({"CPU": 8, "GPU": 4}, {"CPU": 8, "GPU": 4})
    spread = Claim(wants=8, size=amounts(CPU=1, GPU=1), held=Counter({"1": 3, "0": 1}))
    assert divide(nodes, [spread]) == [{"1": 4, "0": 4}]
    [small, large] = divide(nodes, [spread, Claim(wants=1, size=amounts(CPU=1, GPU=4))])
    assert (small.total(), large.total()) == (4, 1)
    assert not small.keys() & large.keys()


def test_a_part_of_a_gpu_is_of_one_gpu_and_leaves_the_others_whole() -> None:
    room = Room("a", amounts(CPU=8, GPU=2))
    tenth, whole = amounts(GPU=0.1), amounts(GPU=1)
    places = [room.take(tenth) for _ in range(3)]
    assert [place and place.gpus for place in places] == [(0,), (0,), (0,)]
    place = room.take(whole)
    assert place is not None
    assert place.gpus == (1,)
    assert room.take(whole) is None
    room.occupy(whole, place, -1)
    assert room.fits(whole)


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
    node = {"CPU": 16, "GPU": 4}
    small, large = Claim(wants=99, size=ONE), Claim(wants=99, size=amounts(CPU=4))
    assert counts(named({"CPU": 16}), small, large) == [8, 2]
    on_gpus = Claim(wants=99, size=amounts(CPU=1, GPU=1))
    assert counts(named(node), on_gpus, small) == [4, 12]
    assert counts(named(node), on_gpus, on_gpus, small) == [2, 2, 12]


def test_fractions_of_a_gpu_add_up() -> None:
    tenth = Claim(wants=99, size=amounts(CPU=1, GPU=0.1))
    assert counts(named({"CPU": 64, "GPU": 1}), tenth) == [10]


claims = st.lists(
    st.builds(
        Claim,
        wants=st.integers(1, 8),
        size=st.builds(lambda cpus, gpus: amounts(CPU=cpus, GPU=gpus), st.integers(1, 3), st.sampled_from([0, 0.5])),
        priority=st.integers(-1, 1),
    ),
    max_size=5,
)  # fmt: skip


nodes = st.lists(st.fixed_dictionaries({"CPU": st.integers(0, 9), "GPU": st.integers(0, 2)}), max_size=3)


def fill(
    cluster: dict[str, dict[str, int]], sizes: list[tuple[dict[str, int], Counter[str]]]
) -> dict[str, Room]:
    """Place these actors on empty nodes, which must have room for them; return the nodes."""
    rooms = {name: Room(name, node) for name, node in cluster.items()}
    for size, given_ in sorted(sizes, key=lambda one: -one[0].get("GPU", 0)):
        for name in given_.elements():
            assert rooms[name].take(size) is not None
    return rooms


@given(claims, nodes)
def test_no_division_takes_too_much_wastes_anything_or_is_unfair(
    claims: list[Claim], shapes: list[Shape]
) -> None:
    cluster = named(*shapes)

    given_ = divide(cluster, claims)

    rooms = fill(cluster, [(claim.size, one) for claim, one in zip(claims, given_, strict=True)])
    for one, claim in zip(given_, claims, strict=True):
        assert one.total() <= claim.wants
        if one.total() < claim.wants:
            assert not any(room.fits(claim.size) for room in rooms.values())
    for index, (one, claim) in enumerate(zip(given_, claims, strict=True)):
        for other, its in zip(given_, claims, strict=True):
            if its.size == claim.size and its.priority == claim.priority:
                assert one.total() >= min(claim.wants, other.total() - 1), f"not fair to {index}"
