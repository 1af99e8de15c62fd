from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from ranksieve.search.errors import ScoringError
from ranksieve.workers.cache.folders import FolderCache
from ranksieve.workers.factors.calibration import Calibrator
from ranksieve.workers.factors.decomposition import factor
from ranksieve.workers.factors.group import CHUNK, MatrixGroup, Recipe
from ranksieve.workers.factors.prepared import load_factors
from ranksieve.workers.factors.shrinkage import shrunk
from ranksieve.workers.model.matrices import find_matrices, weight_OD
from ranksieve.workers.types.plan import EncodedTask

MATRICES = 14
BATCHES = 6

Groups = Callable[..., MatrixGroup]


@pytest.fixture
def groups(
    make_llama: Callable[[], PreTrainedModel], make_task: Callable[..., EncodedTask], tmp_path: Path
) -> Groups:
    """Makes what every worker makes for itself."""

    def make(make_model: Callable[[], PreTrainedModel] = make_llama) -> MatrixGroup:
        model = make_model()
        recipe = Recipe(
            kind="choice",
            examples=make_task("choice").splits["calibration"],
            seed=0,
            batch_tokens=64,
            precision=torch.float64,
            dtype=torch.float32,
        )
        return MatrixGroup(FolderCache(tmp_path), "factors", model, find_matrices(model), recipe, workers=2)

    return make


def entries(folder: Path) -> list[str]:
    return sorted(entry.name.split("-")[0] for entry in folder.glob("*-*/"))


@pytest.mark.parametrize("architecture", ["llama", "mixture"])
def test_factors_are_those_of_the_shrunk_gradients(
    groups: Groups,
    make_llama: Callable[[], PreTrainedModel],
    make_mixture: Callable[..., PreTrainedModel],
    make_task: Callable[..., EncodedTask],
    tmp_path: Path,
    architecture: str,
) -> None:
    make = {"llama": make_llama, "mixture": partial(make_mixture, experts=16)}[architecture]
    group, model, examples = groups(make_model=make), make(), make_task("choice").splits["calibration"]
    assert list(group.gather())
    assert list(group.factor())
    part = len(group.parts) - 1  # the last block's
    matrices = find_matrices(model)[part * CHUNK :]
    few = 0
    with Calibrator(model, matrices) as calibrator:
        assert list(calibrator.run("choice", examples, 64, 0))
    for matrix in matrices:
        weight = weight_OD(model.get_submodule(matrix.name))  # type: ignore[arg-type]
        forward, backward = calibrator.grams.of(matrix.name)
        assert backward is not None
        if not backward.any():
            continue
        answers = calibrator.grams.answers_of(matrix.name)
        few += answers < len(examples)
        found, expected, plain = (
            first_component(left_RO, right_RD)
            for left_RO, right_RD in (
                load_factors(tmp_path / group.parts[part])[matrix.name],
                factors_of(weight, forward, shrunk(weight, backward, answers)),
                factors_of(weight, forward, backward),
            )
        )
        assert (found - expected).norm() < 1e-3 * (plain - expected).norm()
    assert bool(few) == (architecture == "mixture")


def factors_of(weight_OD: torch.Tensor, *grams: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    factors = factor(weight_OD, 1, *grams)
    return factors.left_RO.float(), factors.right_RD.float()


def first_component(left_RO: torch.Tensor, right_RD: torch.Tensor) -> torch.Tensor:
    return torch.outer(left_RO[0], right_RD[0])


def test_a_group_is_gathered_then_factored_in_chunks(groups: Groups, tmp_path: Path) -> None:
    group = groups()
    assert len(group.parts) == -(-MATRICES // CHUNK) == 2
    steps = list(group.gather())
    assert steps == [*((done, BATCHES) for done in range(1, BATCHES + 1)), (BATCHES, BATCHES)]
    assert entries(tmp_path) == ["grams"]
    assert not group.done
    assert list(group.factor()) == [(CHUNK, MATRICES), (MATRICES, MATRICES)]
    assert group.done
    assert entries(tmp_path) == ["part", "part"]  # nobody needs the sum any more
    names = [set(load_factors(tmp_path / part)) for part in group.parts]
    assert [len(some) for some in names] == [CHUNK, MATRICES - CHUNK]
    assert len(set.union(*names)) == MATRICES
    assert list(group.gather()) == list(group.factor()) == []
    group.discard()
    assert entries(tmp_path) == []


def test_a_chunk_that_is_taken_is_left_to_whoever_took_it(groups: Groups, tmp_path: Path) -> None:
    ours, theirs = groups(), groups()
    list(ours.gather())
    factoring = ours.factor()
    assert next(factoring) == (CHUNK, MATRICES)
    factoring.close()  # type: ignore[attr-defined]
    assert list(theirs.gather()) == [(BATCHES, BATCHES)]  # the sum is there
    with FolderCache(tmp_path).claim(ours.parts[1]) as claimed:
        assert claimed
        assert list(theirs.factor()) == []
        assert not theirs.done
    theirs.wait()  # nobody holds it any more
    assert list(theirs.factor()) == [(MATRICES, MATRICES)]
    assert ours.done


def test_what_is_put_together_is_not_done_again(groups: Groups, tmp_path: Path) -> None:
    cache = FolderCache(tmp_path)
    with cache.lock("factors"), cache.writing("factors"):
        pass
    late = groups()
    assert late.done
    assert list(late.gather()) == list(late.factor()) == []
    assert entries(tmp_path) == []


def test_weights_that_are_not_finite_are_named(
    groups: Groups, make_mixture: Callable[..., PreTrainedModel]
) -> None:
    model = make_mixture()
    broken = find_matrices(model)[-1].name  # an expert's
    broken_group = groups(lambda: model)
    assert list(broken_group.gather())
    weight_OD(model.get_submodule(broken))[0, 0] = torch.nan  # type: ignore[arg-type]
    with pytest.raises(ScoringError, match=rf"{broken}: its weights are not finite"):
        list(broken_group.factor())
