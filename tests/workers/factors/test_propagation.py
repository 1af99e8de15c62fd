import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ranksieve.search.errors import ScoringError
from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.search.space.space import SearchSpace
from ranksieve.search.start.seeds import lagrangian
from ranksieve.workers.factors.answer_bias import fixed_answers
from ranksieve.workers.factors.decomposition import GRADIENT_DAMPING, Factors, factor, regressed
from ranksieve.workers.factors.prepared import Prepared, load_factors
from ranksieve.workers.factors.propagation import (
    ALPHA,
    DENSE_WEIGHT,
    MOST_EXAMPLES,
    MOST_JUDGES,
    makers_of,
    propagate,
    split_for_propagation,
)
from ranksieve.workers.forward.batches import make_batches
from ranksieve.workers.forward.likelihood import answer_logits, right_choices
from ranksieve.workers.forward.loss import example_losses, kl, log_likelihoods, mean_quality
from ranksieve.workers.model.loading import load_prepared
from ranksieve.workers.model.switchable import SwitchableModel, switchable_module
from ranksieve.workers.types.plan import EncodedTask, Example

BUDGET = 40

Inputs = dict[str, torch.Tensor]


@pytest.fixture
def moments() -> tuple[torch.Tensor, torch.Tensor]:
    """E[w x̃ᵀ] and E[x̃ x̃ᵀ] of inputs of 12 numbers, some of which are nearly determined by others."""
    torch.manual_seed(0)
    x_TD = torch.randn(200, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64)
    x_TD[:, -2:] = x_TD[:, :2] + 0.1 * x_TD[:, -2:]
    w_TD = x_TD + torch.randn(200, 12, dtype=torch.float64)
    return w_TD.T @ x_TD / 200, x_TD.T @ x_TD / 200


@pytest.mark.parametrize("out_features", [8, 20])
def test_no_map_of_a_rank_does_better_for_the_loss(
    moments: tuple[torch.Tensor, torch.Tensor], out_features: int
) -> None:
    """Against the truncated decomposition of the wanted map between whitened inputs and outputs, Izenman 1975."""
    cross_DD, gram_DD = moments
    weight_OD = torch.randn(out_features, 12, dtype=torch.float64)
    gradients = torch.randn(100, out_features, dtype=torch.float64)
    loss_OO = gradients.T @ gradients / 100
    width = min(out_features, 12)
    if out_features <= 12:
        old = factor(weight_OD, "task", width, weight_OD @ gram_DD @ weight_OD.T, loss_OO)
        loss_OO += GRADIENT_DAMPING * loss_OO.diagonal().mean() * torch.eye(out_features)
    else:
        old = factor(weight_OD, "task", width, gram_DD, weight_OD.T @ loss_OO @ weight_OD)
    new = regressed(old, cross_DD, gram_DD)
    root_OO, root_DD = torch.linalg.cholesky(loss_OO), torch.linalg.cholesky(gram_DD)
    best = torch.linalg.svd(root_OO.T @ weight_OD @ cross_DD @ torch.linalg.inv(root_DD).T)
    for rank in range(1, width + 1):
        map_OD = new.left_RO[:rank].T @ new.right_RD[:rank]
        seen_OD = root_OO.T @ map_OD @ root_DD
        expected_OD = (best.U[:, :rank] * best.S[:rank]) @ best.Vh[:rank]
        torch.testing.assert_close(seen_OD, expected_OD, rtol=1e-3, atol=1e-3 * float(best.S[0]))
    torch.testing.assert_close(
        new.energy_K, best.S[:width] ** 2, rtol=1e-3, atol=1e-5 * float(best.S[0] ** 2)
    )


def test_inputs_that_are_what_they_were_change_no_map(moments: tuple[torch.Tensor, torch.Tensor]) -> None:
    _, gram_DD = moments
    weight_OD, loss_OO = torch.randn(8, 12, dtype=torch.float64), torch.eye(8, dtype=torch.float64)
    old = factor(weight_OD, "task", 8, weight_OD @ gram_DD @ weight_OD.T, loss_OO)
    new = regressed(old, gram_DD, gram_DD)
    for rank in (1, 4, 8):
        before, after = (one.left_RO[:rank].T @ one.right_RD[:rank] for one in (old, new))
        torch.testing.assert_close(after @ gram_DD, before @ gram_DD, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(new.energy_K, old.energy_K, rtol=1e-3, atol=1e-6)


def test_components_without_worth_are_left_out(moments: tuple[torch.Tensor, torch.Tensor]) -> None:
    """And the energies behind those that there are factors of fall on."""
    cross_DD, gram_DD = moments
    torch.manual_seed(1)
    energy_K = torch.tensor([3.0, 2.0, 0.0, 0.0, 5.0, 0.0], dtype=torch.float64)
    old = Factors(left_RO=torch.randn(4, 8), right_RD=torch.randn(4, 12), energy_K=energy_K)
    new = regressed(old, cross_DD, gram_DD)
    assert all(half.isfinite().all() for half in (new.left_RO, new.right_RD))
    map_OD, short_OD = (new.left_RO[:rank].T @ new.right_RD[:rank] for rank in (4, 2))
    torch.testing.assert_close(map_OD, short_OD)
    beside_OO = torch.linalg.pinv(old.left_RO[:2].double()) @ old.left_RO[:2].double()
    torch.testing.assert_close(beside_OO @ map_OD, map_OD)  # nothing of the worthless ones is in it
    assert (new.energy_K.diff() <= 0).all()
    assert len(new.energy_K) == 6


@pytest.mark.parametrize("count", [1, 2])
def test_every_matrix_is_regressed_on_what_it_reads_in_all_models(
    candidate: tuple[SwitchableModel, Sequence[MatrixShape], list[int]],
    make_task: Callable[..., EncodedTask],
    inputs_of: Callable[..., Inputs],
    count: int,
) -> None:
    switchable, matrices, ranks = candidate
    switchable.model.double()
    candidates = [ranks, [4] * len(matrices)][:count]
    examples, energies = make_task("choice").splits["search"], _energies(matrices)
    switchable.switch([DENSE] * len(matrices))
    dense = inputs_of(switchable.model, matrices, examples)
    old = {
        matrix.name: Factors(
            left_RO=module.left_RO, right_RD=module.right_RD, energy_K=torch.from_numpy(energy_K)
        )
        for matrix, energy_K in zip(matrices, energies, strict=True)
        for module in [switchable_module(switchable.model, matrix.name)]
    }
    blocks = list(propagate(switchable, candidates, energies, examples, BUDGET))
    assert [(block.done, block.total) for block in blocks] == [(1, 3), (2, 3), (3, 3)]
    made = {name: energy_K for block in blocks for name, energy_K in block.energies.items()}
    assert list(made) == [matrix.name for matrix in matrices]
    read: list[Inputs] = []
    for some in candidates:
        switchable.switch(some)
        skipped = switchable.skipped(some)
        seen = inputs_of(switchable.model, matrices, examples)
        read.append({name: x_TD for name, x_TD in seen.items() if name not in skipped})
    assert len(read[0]) < len(matrices)
    for matrix in matrices:
        module, before = switchable_module(switchable.model, matrix.name), old[matrix.name]
        places = [inputs[matrix.name] for inputs in read if matrix.name in inputs]
        if not places:  # the whole sublayer is gone
            assert module.left_RO is before.left_RO
            assert module.right_RD is before.right_RD
            continue
        x_TD, dense_TD = torch.cat(places), torch.cat([dense[matrix.name]] * len(places))
        wanted_TD = torch.lerp(x_TD, dense_TD, ALPHA)
        weight = (1 + DENSE_WEIGHT) * len(x_TD)
        cross_DD = (wanted_TD.T @ x_TD + DENSE_WEIGHT * dense_TD.T @ dense_TD) / weight
        gram_DD = (x_TD.T @ x_TD + DENSE_WEIGHT * dense_TD.T @ dense_TD) / weight
        unknown_DD = torch.diag(gram_DD.diagonal()) * (x_TD.shape[1] / len(dense[matrix.name])) ** 2
        expected = regressed(before, cross_DD + unknown_DD, gram_DD + unknown_DD)
        for rank in (3, 5):
            got_TO, best_TO = (
                (x_TD @ one.right_RD[:rank].T) @ one.left_RO[:rank] for one in (module, expected)
            )
            assert (got_TO - best_TO).norm() < 1e-3 * best_TO.norm()
        np.testing.assert_allclose(made[matrix.name], expected.energy_K.numpy(), rtol=1e-3, atol=1e-6)


def test_a_matrix_whose_factors_are_worth_nothing_keeps_them(
    candidate: tuple[SwitchableModel, Sequence[MatrixShape], list[int]], make_task: Callable[..., EncodedTask]
) -> None:
    switchable, matrices, _ = candidate
    examples, energies = make_task("choice").splits["search"], _energies(matrices)
    energies[1] = np.zeros_like(energies[1])
    modules = [switchable_module(switchable.model, matrix.name) for matrix in matrices]
    before = [(module.left_RO, module.right_RD) for module in modules]
    made: dict[str, NDArray[np.floating]] = {}
    for block in propagate(switchable, [[4] * len(matrices)], energies, examples, BUDGET):
        made |= block.energies
    same = [
        module.left_RO is left and module.right_RD is right
        for module, (left, right) in zip(modules, before, strict=True)
    ]
    assert same == [index == 1 for index in range(len(matrices))]
    assert not made[matrices[1].name].any()


def test_head_gets_one_bias_for_all_models_but_the_dense_one(
    candidate: tuple[SwitchableModel, Sequence[MatrixShape], list[int]],
    make_task: Callable[..., EncodedTask],
) -> None:
    """With it the models' own derivative of likelihood and prior is zero at each token of the answers."""
    switchable, matrices, ranks = candidate
    head = switchable.model.get_output_embeddings()
    candidates, examples = [ranks, [4] * len(matrices)], make_task("choice").splits["search"]
    for _ in propagate(switchable, candidates, _energies(matrices), examples, BUDGET):
        pass
    bias_V = switchable.answer_bias
    assert bias_V is not None
    (batch,) = make_batches(examples, 3, 10_000)
    bias_V.requires_grad_()
    for some in candidates:
        switchable.switch(some)
        assert head.bias is bias_V
        logp = log_likelihoods("choice", answer_logits(switchable.model, batch), examples, batch, 3)
        right = right_choices(examples, batch, logp.device)
        (-logp[torch.arange(len(right)), right].sum()).backward()
    tokens = list(fixed_answers(examples))
    assert bias_V.detach().nonzero().flatten().tolist() == tokens
    torch.testing.assert_close(-bias_V.grad[tokens], bias_V.detach()[tokens], atol=1e-3, rtol=1e-3)
    switchable.switch([DENSE] * len(matrices))
    assert head.bias is None


def _energies(matrices: Sequence[MatrixShape]) -> list[NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    widths = [min(matrix.out_features, matrix.in_features) for matrix in matrices]
    return [np.sort(rng.exponential(size=width))[::-1].copy() for width in widths]


@pytest.mark.parametrize("share", [0.3, 0.6])
def test_models_of_that_size_come_nearer_to_the_dense_one_and_larger_ones_stay_of_use(
    prepared: Prepared, make_task: Callable[..., EncodedTask], share: float
) -> None:
    model = load_prepared(prepared.model.folder, torch.device("cpu"))
    switchable = SwitchableModel(model, prepared.matrices, load_factors(prepared.factors))
    space = SearchSpace(prepared.matrices, 1)
    examples = make_task("choice").splits["calibration"]

    def divergence(kept: float) -> float:
        ranks = space.ranks(lagrangian(space, prepared.energies, kept))
        return _kl(switchable, ranks, examples)

    before, larger = divergence(share), divergence(share + 0.2)
    ranks = space.ranks(lagrangian(space, prepared.energies, share))
    for _ in propagate(switchable, [ranks], prepared.energies, examples, BUDGET, answer_bias=False):
        pass
    assert divergence(share) < 0.8 * before
    assert larger < divergence(share + 0.2) < before


def test_few_records_are_left_to_tell_whether_it_helps(make_task: Callable[..., EncodedTask]) -> None:
    calibration = make_task("choice").splits["calibration"]
    assert len(calibration) == 12
    assert split_for_propagation(calibration) == (calibration[:9], calibration[9:])
    assert split_for_propagation(calibration[:1]) == (calibration[:1], calibration[:1])
    assert (makers_of(12), makers_of(1)) == (9, 1)
    many = list(calibration) * 200
    first, judges = split_for_propagation(many)
    assert (len(first), len(judges)) == (MOST_EXAMPLES, MOST_JUDGES)
    (row, *_) = calibration[0].rows
    long = replace(calibration[0], rows=[replace(row, ids=row.ids[:1] * 30_000)])
    assert split_for_propagation([long] * 12) == ([long] * 2, [long] * 3)
    assert split_for_propagation([replace(long, rows=long.rows * 3)] * 12)[0] == [
        replace(long, rows=long.rows * 3)
    ]


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_what_is_lost_is_divergence_and_unlikelihood(
    prepared: Prepared, make_task: Callable[..., EncodedTask], weight: float
) -> None:
    model = load_prepared(prepared.model.folder, torch.device("cpu"))
    switchable = SwitchableModel(model, prepared.matrices, load_factors(prepared.factors))
    examples, ranks = make_task("choice").splits["calibration"], [3] * len(prepared.matrices)
    lost = float(example_losses(switchable, ranks, "choice", examples, BUDGET, weight).mean())
    if weight:
        assert lost == pytest.approx(_kl(switchable, ranks, examples))
        return
    logp = 0.0
    for batch in make_batches(examples, 3, BUDGET):
        switchable.switch(ranks)
        scores = log_likelihoods("choice", answer_logits(model, batch), examples, batch, 3)
        logp += sum(float(row[examples[i].label]) for i, row in zip(batch.examples, scores, strict=True))
    assert lost == pytest.approx(-logp / len(examples))


@pytest.mark.parametrize("kind", ["choice", "lm", "generate"])
def test_each_example_loses_what_it_loses_alone(
    prepared: Prepared, make_task: Callable[..., EncodedTask], kind: str
) -> None:
    model = load_prepared(prepared.model.folder, torch.device("cpu"))
    switchable = SwitchableModel(model, prepared.matrices, load_factors(prepared.factors))
    examples, ranks = make_task(kind).splits["calibration"], [3] * len(prepared.matrices)
    lost = example_losses(switchable, ranks, kind, examples, BUDGET, 0.5)
    alone = [example_losses(switchable, ranks, kind, [example], BUDGET, 0.5) for example in examples]
    assert len(set(lost.tolist())) > 1
    torch.testing.assert_close(lost, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_quality_is_the_share_of_right_answers(
    prepared: Prepared, make_task: Callable[..., EncodedTask]
) -> None:
    model = load_prepared(prepared.model.folder, torch.device("cpu"))
    switchable = SwitchableModel(model, prepared.matrices, load_factors(prepared.factors))
    examples, ranks = make_task("choice").splits["calibration"], [3] * len(prepared.matrices)
    right = 0
    for batch in make_batches(examples, 3, BUDGET):
        switchable.switch(ranks)
        scores = log_likelihoods("choice", answer_logits(model, batch), examples, batch, 3)
        right += sum(
            int(row.argmax()) == examples[i].label for i, row in zip(batch.examples, scores, strict=True)
        )
    assert 0 < right < len(examples)
    assert mean_quality(switchable, ranks, "choice", examples, BUDGET) == right / len(examples)
    switchable_module(model, prepared.matrices[-1].name).left_RO[0, 0] = torch.nan
    assert math.isnan(mean_quality(switchable, ranks, "choice", examples, BUDGET))


@torch.inference_mode()
def _kl(switchable: SwitchableModel, ranks: Sequence[int], examples: Sequence[Example]) -> float:
    """Mean divergence from the dense model's answers, nats."""
    total = 0.0
    for batch in make_batches(examples, 3, BUDGET):
        pair = []
        for some in ([DENSE] * len(ranks), ranks):
            switchable.switch(some)
            logits = answer_logits(switchable.model, batch)
            pair.append(log_likelihoods("choice", logits, examples, batch, 3))
        total += float(kl(*pair).sum())
    return total / len(examples)


def test_a_matrix_that_a_block_runs_twice_stays_what_it_was(
    make_llama: Callable[..., Any], make_switchable: Callable[..., Any], make_task: Callable[..., EncodedTask]
) -> None:
    switchable, matrices = make_switchable(make_llama())
    mlp = switchable.model.model.layers[0].mlp
    once = mlp.forward

    def twice(x_BLD: torch.Tensor) -> torch.Tensor:
        mlp.gate_proj(x_BLD)
        made: torch.Tensor = once(x_BLD)
        return made

    mlp.forward = twice
    before = {name: switchable_module(mlp, name).right_RD for name in ("gate_proj", "up_proj")}
    examples = make_task("choice").splits["search"]
    for _ in propagate(switchable, [[4] * len(matrices)], _energies(matrices), examples, BUDGET):
        pass
    assert switchable_module(mlp, "gate_proj").right_RD is before["gate_proj"]
    assert switchable_module(mlp, "up_proj").right_RD is not before["up_proj"]


def test_experts_stay_what_they_were_though_all_tokens_are_sent_to_them(
    make_mixture: Callable[..., Any],
    make_switchable: Callable[..., Any],
    make_task: Callable[..., EncodedTask],
) -> None:
    switchable, matrices = make_switchable(make_mixture(experts=2))
    before = {m.name: switchable_module(switchable.model, m.name).right_RD for m in matrices}
    examples = make_task("choice").splits["search"]
    for _ in propagate(switchable, [[4] * len(matrices)], _energies(matrices), examples, BUDGET):
        pass
    for name, right_RD in before.items():
        stayed = switchable_module(switchable.model, name).right_RD is right_RD
        assert stayed == (".experts." in name)


def test_what_is_not_finite_is_named(candidate: Any, make_task: Callable[..., EncodedTask]) -> None:
    switchable, matrices, ranks = candidate
    first = switchable.model.get_submodule(matrices[0].name)
    first.weight.data[0, 0] = torch.inf
    with pytest.raises(
        ScoringError, match=r"the input of .* in a smaller model or in the dense one is not finite"
    ):
        list(propagate(switchable, [ranks], _energies(matrices), make_task("lm").splits["search"], BUDGET))


def test_same_twice(prepared: Prepared, make_task: Callable[..., EncodedTask]) -> None:
    examples, made = make_task("choice").splits["calibration"], []
    for _ in range(2):
        model = load_prepared(prepared.model.folder, torch.device("cpu"))
        switchable = SwitchableModel(model, prepared.matrices, load_factors(prepared.factors))
        ranks = [3] * len(prepared.matrices)
        energies = [
            energy_K
            for block in propagate(switchable, [ranks], prepared.energies, examples, BUDGET)
            for energy_K in block.energies.values()
        ]
        halves = [switchable_module(model, matrix.name).right_RD for matrix in prepared.matrices]
        made.append((energies, halves))
    (first, halves), (second, again) = made
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(a.equal(b) for a, b in zip(halves, again, strict=True))
