import pytest

from ranksieve.search.errors import InputError
from ranksieve.search.space.objectives import MaxDrop, Pareto, TargetBytes, TargetParams
from ranksieve.search.space.sizes import Sizes
from ranksieve.search.space.space import SearchSpace


def test_impossible_objectives_are_refused() -> None:
    with pytest.raises(InputError, match=r"objective.points: must be in \[0, 100\], got -1"):
        MaxDrop(points=-1)
    with pytest.raises(InputError, match=r"objective.share: must be in \(0, 1\], got 0"):
        TargetParams(share=0)


def test_a_share_that_constraints_rule_out_is_refused(bounded: SearchSpace) -> None:
    assert TargetParams(share=0.25).target(bounded) == 0.25
    with pytest.raises(InputError, match=r"objective.share: must be at least 0.25, which .*; got 0.24"):
        TargetParams(share=0.24).target(bounded)


def test_a_front_begins_where_constraints_end(bounded: SearchSpace) -> None:
    def front(largest: float) -> Pareto:
        return Pareto(smallest=0.1, largest=largest, sizes=3, finalists=1, points=1.0)

    assert front(0.65).target(bounded) == 0.65
    assert Sizes(bounded, front(0.65)).shares == pytest.approx([0.25, 0.45, 0.65])
    for largest in (0.2, 0.25):
        with pytest.raises(InputError, match=rf"objective.largest: must be above 0.25, .*; got {largest}"):
            front(largest).target(bounded)


def test_bytes_are_those_left_to_the_matrices(bounded: SearchSpace) -> None:
    target = TargetBytes(size_bytes=1500, other_bytes=1000).target(bounded)
    assert bounded.budget(target) == 500
    for size in (1256, 2023):
        assert bounded.budget(TargetBytes(size_bytes=size, other_bytes=1000).target(bounded)) == size - 1000


@pytest.mark.parametrize("size", [900, 1255, 2024, 10**9])
def test_a_file_size_out_of_reach_is_refused_with_the_numbers(bounded: SearchSpace, size: int) -> None:
    wanted = TargetBytes(size_bytes=size, other_bytes=1000, field="objective.share")
    with pytest.raises(InputError) as caught:
        wanted.target(bounded)
    assert caught.value.field == "objective.share"
    for number in ("1,256 bytes", "1,000 bytes", "256 bytes", "2,024 bytes", f"{size:,} bytes"):
        assert number in caught.value.message
