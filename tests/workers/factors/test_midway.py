from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from ranksieve.search.space.matrix import DENSE
from ranksieve.workers.factors.calibration import Calibrator
from ranksieve.workers.factors.midway import (
    MidwayLinear,
    dense_module,
    examples_of_the_way,
    go_midway,
)
from ranksieve.workers.factors.preparation import prepare
from ranksieve.workers.factors.prepared import PreparationPlan, Prepared, load_factors
from ranksieve.workers.model.matrices import find_matrices, weight_OD
from ranksieve.workers.types.plan import EncodedTask


def halves(model: PreTrainedModel) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Random factors of every matrix."""
    generator = torch.Generator().manual_seed(0)
    return {
        matrix.name: (
            torch.randn(8, matrix.out_features, generator=generator),
            torch.randn(8, matrix.in_features, generator=generator),
        )
        for matrix in find_matrices(model)
    }


@pytest.mark.parametrize("maker", ["make_llama", "make_gpt2"])
@pytest.mark.parametrize("rank", [0, 3, 8])
def test_a_third_of_the_way_to_the_factors(request: pytest.FixtureRequest, maker: str, rank: int) -> None:
    make = request.getfixturevalue(maker)
    model, expected = make(), make()
    matrices, factors = find_matrices(model), halves(model)
    with torch.no_grad():
        for matrix in matrices:
            left_RO, right_RD = factors[matrix.name]
            weight = weight_OD(dense_module(expected, matrix.name))
            weight += (left_RO[:rank].T @ right_RD[:rank] - weight) / 3

    go_midway(model, matrices, [rank] * len(matrices), factors)

    ids = torch.tensor([[3, 4, 5, 6, 7]])
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, expected(ids).logits, rtol=1e-4, atol=1e-4)


def test_matrices_at_dense_level_stay_as_they_are(make_llama: Callable[..., PreTrainedModel]) -> None:
    model = make_llama()
    matrices = find_matrices(model)
    go_midway(model, matrices, [DENSE, *[3] * (len(matrices) - 1)], halves(model))
    modules = [model.get_submodule(matrix.name) for matrix in matrices]
    assert [isinstance(module, MidwayLinear) for module in modules] == [False] + [True] * (len(matrices) - 1)


@pytest.mark.parametrize("maker", ["make_llama", "make_gpt2"])
def test_second_moments_are_of_the_dense_maps_at_the_midway_models_inputs_and_gradients(
    request: pytest.FixtureRequest, make_task: Callable[..., EncodedTask], maker: str
) -> None:
    """Against hooks on the modules around the dense maps."""
    model, examples = request.getfixturevalue(maker)().double(), make_task("lm").splits["calibration"]
    matrices = find_matrices(model)
    factors = {name: (left.double(), right.double()) for name, (left, right) in halves(model).items()}
    go_midway(model, matrices, [3] * len(matrices), factors)
    forward = {matrix.name: torch.zeros((), dtype=torch.float64) for matrix in matrices}
    backward, handles = dict(forward), []
    for matrix in matrices:
        dense_OD = weight_OD(dense_module(model, matrix.name))

        def watch(
            _: Any, args: Any, y: torch.Tensor, name: str = matrix.name, weight: Any = dense_OD
        ) -> None:
            at_output = weight.shape[0] <= weight.shape[1]
            seen = args[0].detach().flatten(0, -2)
            seen = seen @ weight.T if at_output else seen

            def take(grad: torch.Tensor) -> None:
                passed = grad.flatten(0, -2) if at_output else grad.flatten(0, -2) @ weight
                backward[name] = backward[name] + passed.T @ passed

            forward[name] = forward[name] + seen.T @ seen
            y.register_hook(take)

        handles.append(model.get_submodule(matrix.name).register_forward_hook(watch))

    with Calibrator(model, matrices) as calibrator:
        for example in examples:  # one by one, without padding
            list(calibrator.run("lm", [example], 64, seed=0))
    for handle in handles:
        handle.remove()

    for matrix in matrices:
        got = [
            gram * calibrator.grams.tokens for gram in calibrator.grams.of(matrix.name) if gram is not None
        ]
        for one, expected in zip(got, (forward[matrix.name], backward[matrix.name]), strict=True):
            torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_preparation_takes_the_moments_midway(preparation_plan: PreparationPlan, prepared: Prepared) -> None:
    plan = replace(
        preparation_plan, midway_share=0.4, training=replace(preparation_plan.training, rank_step=4)
    )
    progress = list(prepare(plan))
    midway = progress[-1]
    assert isinstance(midway, Prepared)
    phases = {item.phase: (item.done, item.total) for item in progress[:-1]}
    assert list(phases) == ["model", "calibration", "projection", "recalibration", "reprojection"]
    assert all(done == total for done, total in list(phases.values())[1:])
    assert (midway.matrices, midway.total_params, midway.block_params) == (
        prepared.matrices,
        prepared.total_params,
        prepared.block_params,
    )
    ours, dense = load_factors(midway.factors), load_factors(prepared.factors)
    assert ours.keys() == dense.keys()
    assert not any(ours[name][0].equal(dense[name][0]) for name in ours)
    assert [item.phase for item in prepare(plan) if not isinstance(item, Prepared)] == 2 * ["model"]


@pytest.mark.parametrize(("examples", "few"), [(1, 1), (64, 64), (65, 64), (512, 64), (513, 65), (1024, 128)])
def test_an_eighth_of_the_examples_tells_the_way_or_64(examples: int, few: int) -> None:
    assert examples_of_the_way(examples) == few
