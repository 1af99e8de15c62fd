import pytest

from search.finalists import drop_finalists, spread
from search.objectives import Accepted
from search.seeds import lagrangian


def accepted(*shares: float) -> list[Accepted]:
    return [Accepted(share=share, genome=(round(share * 1000),)) for share in shares]


def test_the_smallest_and_then_widening_gaps() -> None:
    entries = accepted(0.7, 0.6, 0.5, 0.45, 0.4, 0.36, 0.32, 0.28, 0.24, 0.22, 0.21)
    assert [e.share for e in spread(entries, 5)] == [0.4, 0.32, 0.28, 0.24, 0.21]
    assert [e.share for e in spread(entries, 1)] == [0.21]
    assert spread([], 3) == []


def test_finalists_fall_in_size(make_problem) -> None:
    problem = make_problem()
    space, energies = problem.space, problem.energies
    entries = [
        Accepted(share=share, genome=lagrangian(space, energies, share))
        for share in (0.7, 0.5, 0.46, 0.43, 0.4)
    ]
    finalists = drop_finalists(space, energies, entries, 4)
    shares = [space.kept_share(genome) for genome in finalists]
    assert shares == sorted(set(shares), reverse=True)
    assert finalists == [entry.genome for entry in entries[1:]]
    assert drop_finalists(space, energies, entries, 1) == [entries[-1].genome]


def test_with_nothing_accepted_there_is_still_a_safe_one(make_problem) -> None:
    problem = make_problem()
    (safe,) = drop_finalists(problem.space, problem.energies, [], 6)
    assert problem.space.kept_share(safe) == pytest.approx(0.95, abs=0.02)
