from typing import Any

import numpy as np
import pytest

from ranksieve.search.errors import InputError
from ranksieve.search.space.constraints import Constraint, constrained, matches
from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.search.space.space import SearchSpace
from ranksieve.search.start.seeds import lagrangian, uniform

WIDTHS = {"q_proj": (16, 16), "k_proj": (8, 16), "up_proj": (32, 16)}
MATRICES = [
    MatrixShape(name=f"model.layers.{layer}.{kind}", out_features=o, in_features=d, layer=layer, kind=kind)
    for layer in range(4)
    for kind, (o, d) in WIDTHS.items()
]
# rank step 2: q 0, 2, 4, 6 of break-even 8, k 0, 2, 4 of 5.3, up 0, 2, 4, 6, 8, 10 of 10.7; then dense


def demand(index: int = 0, **values: Any) -> Constraint:
    return Constraint(field=f"search.constraints.{index}", **values)


def space_of(*constraints: Constraint) -> SearchSpace:
    return constrained(MATRICES, 2, constraints)


def levels_of(space: SearchSpace, name: str) -> list[int]:
    """The ranks that a matrix may take, by whichever gene decides it."""
    index = [shape.name for shape in space.matrices].index(f"model.layers.{name}")
    for gene in space.genes:
        if index in gene.members:
            return [ranks[gene.members.index(index)] for ranks in gene.levels]
    return [space.ranks(space.smallest_genome)[index]]


def refused(*constraints: Constraint) -> InputError:
    with pytest.raises(InputError) as caught:
        space_of(*constraints)
    return caught.value


def test_without_constraints_it_is_the_plain_space() -> None:
    plain = SearchSpace(MATRICES, 2)
    assert space_of().genes == plain.genes
    assert len(plain.genes) == len(MATRICES)


@pytest.mark.parametrize(
    ("bounds", "ranks"),
    [
        ({"min_density": 0.5}, [4, 6, DENSE]),  # rank 4 keeps 128 of 256
        ({"min_density": 0.51}, [6, DENSE]),
        ({"max_density": 0.5}, [0, 2, 4]),
        ({"min_density": 0.2, "max_density": 0.75}, [2, 4, 6]),
        ({"min_density": 1}, [DENSE]),
        ({"max_density": 0}, [0]),
    ],
)
def test_bounds_of_one_matrix(bounds: dict[str, Any], ranks: list[int]) -> None:
    space = space_of(demand(matrices=("layers.1.q_proj",), **bounds))
    assert levels_of(space, "1.q_proj") == ranks
    assert levels_of(space, "2.q_proj") == [0, 2, 4, 6, DENSE]


def test_several_constraints_hold_together() -> None:
    space = space_of(
        demand(0, matrices=("q_proj",), min_density=0.25),
        demand(1, matrices=("layers.[12].*",), max_density=0.75),
    )
    assert levels_of(space, "0.q_proj") == [2, 4, 6, DENSE]
    assert levels_of(space, "1.q_proj") == [2, 4, 6]
    assert levels_of(space, "1.k_proj") == [0, 2, 4]


def test_settled_matrices_have_no_gene_but_a_cost() -> None:
    space = space_of(
        demand(0, matrices=("layers.0.*",), min_density=1),
        demand(1, matrices=("3.up_proj",), min_density=0.375, max_density=0.375),
    )
    assert len(space) == len(space.counts_G) == 8
    ranks = space.ranks(space.smallest_genome)
    assert ranks == (DENSE,) * 3 + (0,) * 8 + (4,)
    settled = 256 + 128 + 512 + 4 * 48
    assert space.params(space.smallest_genome) == space.cost(space.smallest_genome) == settled
    assert space.smallest_share == settled / (4 * 896)
    assert space.largest_share == (4 * 896 - 512 + 4 * 48) / (4 * 896)
    assert space.budget(0.0) == settled  # nothing below can be had
    assert space.budget(1.0) == 4 * 896


def test_a_layer_tie_makes_one_gene_of_a_layer() -> None:
    space = space_of(demand(matrices=("q_proj", "k_proj"), tied="layer"))
    assert len(space) == 8
    gene = space.genes[2]
    assert (gene.members, gene.layer, gene.kind) == ((3, 4), 1, "q_proj+k_proj")
    # densities: q 0, 1/4, 1/2, 3/4, 1; k 0, 48/128, 96/128, 1; each rounded down from the common one
    assert gene.levels == ((0, 0), (2, 0), (2, 2), (4, 2), (6, 4), (DENSE, DENSE))
    assert space.cost_GL[2, :6].tolist() == [0, 64, 64 + 48, 128 + 48, 192 + 96, 256 + 128]
    assert gene.is_dense(5)
    assert not gene.is_dense(4)


def test_a_tie_over_a_range_of_layers_makes_one_gene_of_all() -> None:
    space = space_of(demand(matrices=("layers.[1-3].up_proj",), tied="all"))
    assert len(space) == 10
    (gene,) = (gene for gene in space.genes if len(gene.members) > 1)
    assert gene.members == (5, 8, 11)
    assert gene.levels == tuple((rank,) * 3 for rank in (0, 2, 4, 6, 8, 10, DENSE))
    genome = lagrangian(space, [0.5 ** np.arange(16)] * 12, 0.4)
    assert len({space.ranks(genome)[i] for i in gene.members}) == 1


def test_bounds_of_one_member_hold_for_the_tie() -> None:
    space = space_of(
        demand(0, matrices=("q_proj", "k_proj"), tied="layer"),
        demand(1, matrices=("1.k_proj",), min_density=0.3, max_density=0.8),
        demand(2, matrices=("2.q_proj",), min_density=1),
    )
    assert levels_of(space, "1.q_proj") == [2, 4, 6]
    assert levels_of(space, "2.k_proj") == [DENSE]


def test_the_seeds_stay_inside() -> None:
    space = space_of(
        demand(0, matrices=("q_proj",), min_density=0.5), demand(1, matrices=("up_proj",), max_density=0.4)
    )
    assert uniform(space, 0.0) == space.smallest_genome
    assert uniform(space, 1.0) == space.largest_genome
    ranks = space.ranks(uniform(space, 0.42))
    assert ranks[:3] == (4, 2, 4)  # of q half at least, of up no more than rank 4, 192 of 512


@pytest.mark.parametrize(
    ("constraints", "field", "words"),
    [
        (
            [demand(matrices=("o_proj",), min_density=0.2)],
            "0.matrices",
            "no matrix to prune matches 'o_proj'",
        ),
        ([demand(matrices=("q_proj", "gate"), min_density=0.2)], "0.matrices", "'gate'; they are named like"),
        ([demand(matrices=("q_proj",), min_density=0.3, max_density=0.4)], "0", "has no level that fits; "),
        (
            [demand(matrices=("q_proj",), min_density=0.75), demand(1, matrices=("1.*",), max_density=0.5)],
            "1",
            "1.q_proj has no level that fits together with search.constraints.0",
        ),
        (
            [demand(matrices=("*",), max_density=0), demand(1, matrices=("2.up_proj",), min_density=1)],
            "1",
            "2.up_proj has no level",
        ),
        ([demand(matrices=("q_proj",), tied="layer")], "0.tied", "at most one matrix of each layer"),
        ([demand(matrices=("1.q_proj",), tied="all")], "0.tied", "a single matrix"),
        (
            [
                demand(matrices=("q_proj", "k_proj"), tied="layer"),
                demand(1, matrices=("q_proj",), tied="all"),
            ],
            "1.tied",
            "is already tied by search.constraints.0.tied",
        ),
        (
            [
                demand(matrices=("q_proj", "k_proj"), tied="layer"),
                demand(1, matrices=("1.q_proj",), min_density=1),
                demand(2, matrices=("1.k_proj",), max_density=0.5),
            ],
            "0.tied",
            "allow them no common density",
        ),
    ],
)
def test_what_cannot_be_is_refused(constraints: list[Constraint], field: str, words: str) -> None:
    error = refused(*constraints)
    assert error.field == f"search.constraints.{field}"
    with pytest.raises(InputError, match=words):
        raise error


def test_a_space_without_a_choice_is_refused() -> None:
    error = refused(demand(matrices=("*",), min_density=1))
    assert (error.field, "nothing to search" in error.message) == ("search.constraints", True)


def test_patterns_match_names_and_their_ends() -> None:
    assert matches("model.layers.1.mlp.up_proj", ["up_proj"])
    assert matches("model.layers.1.mlp.up_proj", ["layers.[0-3].*"])
    assert not matches("model.layers.1.mlp.up_proj", ["proj", "layers.2.*"])
