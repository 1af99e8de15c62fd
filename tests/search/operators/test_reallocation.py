from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from search.operators import reallocation
from search.operators.reallocation import reallocate
from search.seeds import lagrangian


@given(seed=st.integers(0, 2**32), share=st.floats(0.05, 0.95))
@settings(max_examples=40, deadline=None)
def test_all_genes_may_move_and_stay_in_the_space(make_problem, seed: int, share: float) -> None:
    problem = make_problem()
    genome = lagrangian(problem.space, problem.energies, share)
    changed = reallocate(problem.prices, genome, Random(seed))
    assert problem.space.validate(changed) == changed
    assert changed == reallocate(problem.prices, genome, Random(seed))


def test_many_genes_move_and_the_size_hardly(make_problem) -> None:
    problem = make_problem()
    genome = lagrangian(problem.space, problem.energies, 0.4)
    changed = [reallocate(problem.prices, genome, Random(seed)) for seed in range(50)]
    moved = [sum(a != b for a, b in zip(one, genome, strict=True)) for one in changed]
    assert sum(moved) / len(moved) > 4
    shares = [problem.space.kept_share(one) for one in changed]
    assert abs(sum(shares) / len(shares) - 0.4) < 0.1


def test_without_jitter_what_was_found_stays(make_problem, monkeypatch) -> None:
    monkeypatch.setattr(reallocation, "SPREAD", 0.0)
    problem = make_problem()
    genome = lagrangian(problem.space, problem.true_energies, 0.4)  # against the prediction
    changed = reallocate(problem.prices, genome, Random(0))
    assert max(abs(a - b) for a, b in zip(changed, genome, strict=True)) <= 2


def test_where_no_gene_can_move_both_ways_nothing_does(make_problem) -> None:
    problem = make_problem()
    assert (
        reallocate(problem.prices, problem.space.smallest_genome, Random(0)) == problem.space.smallest_genome
    )
