from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel, PreTrainedModel

from search.errors import ScoringError
from search.space import MatrixShape
from workers.calibration import Calibrator, Grams, passes
from workers.fisher import Fisher
from workers.matrices import find_matrices, weight_OD
from workers.plan import EncodedTask, Example

ONE_BATCH = 10_000
SEED = 7


def gather(
    model: PreTrainedModel,
    task: EncodedTask,
    *,
    gradients: bool = True,
    seed: int = SEED,
    budget: int = ONE_BATCH,
    fisher: Fisher = "true",
) -> Grams:
    with Calibrator(model, find_matrices(model), gradients=gradients, fisher=fisher) as calibrator:
        steps = list(calibrator.run(task.kind, task.splits["calibration"], budget, seed))
    assert steps == [(index + 1, len(steps)) for index in range(len(steps))]
    return calibrator.grams


class Naive:
    """Runs rows one by one, without padding, and keeps what enters and leaves every matrix."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.tokens = 0
        self._model = model
        self._names = [matrix.name for matrix in find_matrices(model)]
        self._inputs: dict[str, list[torch.Tensor]] = {name: [] for name in self._names}
        self._outputs: dict[str, list[torch.Tensor]] = {name: [] for name in self._names}
        for name in self._names:
            model.get_submodule(name).register_forward_hook(self._hook(name))

    def logp(self, example: Example) -> list[torch.Tensor]:
        """Log-probabilities at the answer positions, L×V of every choice."""
        spans: dict[int, torch.Tensor] = {}
        for row in example.rows:
            self.tokens += len(row.ids)
            logp_LV = self._model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(dim=1)
            for span in row.spans:
                spans[span.choice] = logp_LV[span.start : span.start + len(span.ids)]
        return [spans[choice] for choice in range(example.choices)]

    def grams(self, *losses: torch.Tensor) -> Grams:
        """Unnormalised Grams of everything that ran; gradient Grams summed over the losses."""
        flat = [output for name in self._names for output in self._outputs[name]]
        each = [torch.autograd.grad(loss, flat, retain_graph=True) for loss in losses]
        grads = iter([torch.stack(tensors) for tensors in zip(*each, strict=True)])
        grams = Grams(tokens=self.tokens)
        for name in self._names:
            weight = weight_OD(self._model.get_submodule(name)).detach()  # type: ignore[arg-type]
            gram_C = gram(self._inputs[name])
            gram_G = gram([next(grads) for _ in self._outputs[name]])
            weight = weight.double()
            narrow_output = weight.shape[0] <= weight.shape[1]
            grams.forward_KK[name] = weight @ gram_C @ weight.T if narrow_output else gram_C
            grams.backward_KK[name] = gram_G if narrow_output else weight.T @ gram_G @ weight
        return grams

    def _hook(self, name: str) -> Callable[..., None]:
        def keep(_: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            self._inputs[name].append(args[0])
            self._outputs[name].append(output if output.requires_grad else output.requires_grad_())

        return keep


def assert_same(grams: Grams, expected: Grams) -> None:
    assert grams.tokens == expected.tokens
    for name in expected.forward_KK:
        for got, wanted in zip(grams.of(name), expected.of(name), strict=True):
            assert got is not None
            assert wanted is not None
            assert got.dtype == torch.float64
            scale = float(wanted.abs().max())
            torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-5 * scale)


def gram(tensors: list[torch.Tensor]) -> torch.Tensor:
    rows_TN = torch.cat([tensor.detach().flatten(0, -2) for tensor in tensors]).double()
    return rows_TN.T @ rows_TN


def with_choices(task: EncodedTask, choices: int) -> EncodedTask:
    """The task with only those calibration examples that offer so many choices."""
    chosen = tuple(example for example in task.splits["calibration"] if example.choices == choices)
    assert len(chosen) > 1
    return replace(task, splits={**task.splits, "calibration": chosen})


def by_length(examples: tuple[Example, ...]) -> list[Example]:
    """The order in which one batch holds its examples."""
    return sorted(examples, key=lambda example: max(len(row.ids) for row in example.rows))


def answer_scores(naive: "Naive", example: Example) -> torch.Tensor:
    """The log-likelihood of every answer of an example."""
    tokens = {span.choice: span.ids for row in example.rows for span in row.spans}
    sums = [
        logp_LV[range(len(tokens[choice])), list(tokens[choice])].sum()
        for choice, logp_LV in enumerate(naive.logp(example))
    ]
    return torch.stack(sums)


def naive_choice(model: PreTrainedModel, task: EncodedTask) -> Grams:
    naive = Naive(model)
    examples = by_length(task.splits["calibration"])
    beliefs = [answer_scores(naive, example).log_softmax(0) for example in examples]
    padded_SC = torch.nn.utils.rnn.pad_sequence(beliefs, batch_first=True, padding_value=-20.0)
    return naive.grams(
        *((padded_SC.detach() / 2).exp() * padded_SC).sum(dim=0)
    )  # every label, by its probability


def naive_tokens(model: PreTrainedModel, task: EncodedTask) -> Grams:
    naive = Naive(model)
    logp_NV = torch.cat([naive.logp(example)[0] for example in by_length(task.splits["calibration"])])
    uniform_NV = torch.rand(logp_NV.shape, generator=torch.Generator().manual_seed(SEED))
    drawn_N = (logp_NV.detach() - (-uniform_NV.log()).log()).argmax(dim=1)  # Gumbel's way to draw
    return naive.grams(-logp_NV.gather(1, drawn_N[:, None]).sum())


@pytest.mark.parametrize("kind", ["choice", "lm"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_grams_equal_a_naive_computation(
    make_llama: Callable[[], PreTrainedModel],
    make_gpt2: Callable[[], GPT2LMHeadModel],
    make_task: Callable[..., EncodedTask],
    kind: str,
    architecture: str,
) -> None:
    make, task = {"llama": make_llama, "gpt2": make_gpt2}[architecture], make_task(kind)
    if kind == "choice":
        task = with_choices(task, 2)  # one direction each, which any probe finds
    grams = gather(make(), task)
    expected = (naive_choice if kind == "choice" else naive_tokens)(make(), task)
    assert_same(grams, expected)


@pytest.mark.parametrize("kind", ["choice", "lm"])
def test_empirical_gradients_are_those_of_the_right_answers(
    make_llama: Callable[[], PreTrainedModel], make_task: Callable[..., EncodedTask], kind: str
) -> None:
    task, naive = make_task(kind), Naive(make_llama())
    losses = []
    for example in by_length(task.splits["calibration"]):
        scores = answer_scores(naive, example)
        losses.append(-scores.log_softmax(0)[example.label] if kind == "choice" else -scores.sum())
    expected = naive.grams(torch.stack(losses).sum())
    grams = gather(make_llama(), task, fisher="empirical")
    assert_same(grams, expected)
    other_seed = gather(make_llama(), task, fisher="empirical", seed=SEED + 1)
    assert all(gram_KK.equal(other_seed.backward_KK[name]) for name, gram_KK in grams.backward_KK.items())


def test_probes_of_three_choices_average_to_the_fisher_information(
    make_llama: Callable[[], PreTrainedModel], make_task: Callable[..., EncodedTask]
) -> None:
    model, task = make_llama(), with_choices(make_task("choice"), 3)
    exact = naive_choice(make_llama(), task)
    probes = [gather(model, task, seed=seed) for seed in range(48)]

    def error(name: str, count: int) -> float:
        mean = torch.stack([grams.backward_KK[name] for grams in probes[:count]]).mean(dim=0)
        return float((mean - exact.backward_KK[name]).norm() / exact.backward_KK[name].norm())

    for name in exact.backward_KK:
        assert error(name, 48) < 0.5 * error(name, 1) < 0.5
        assert error(name, 48) < 0.15


def test_one_input_gram_for_matrices_that_read_the_same(
    make_llama: Callable[[], PreTrainedModel], make_task: Callable[..., EncodedTask]
) -> None:
    grams = gather(make_llama(), make_task("choice"))
    first = "model.layers.0."
    owners = {name.removeprefix(first): owner for name, owner in grams.forward_of.items() if first in name}
    assert owners == {"mlp.gate_proj": first + "mlp.gate_proj", "mlp.up_proj": first + "mlp.gate_proj"}
    assert len(grams.forward_KK) == 12
    assert len(grams.backward_KK) == 14


def test_padding_and_batching_leave_input_grams_alone(
    make_llama: Callable[[], PreTrainedModel], make_task: Callable[..., EncodedTask]
) -> None:
    model, task = make_llama(), make_task("choice")
    whole, parts = (gather(model, task, gradients=False, budget=budget) for budget in (ONE_BATCH, 1))
    assert whole.tokens == parts.tokens
    for name in whole.forward_KK:
        torch.testing.assert_close(whole.forward_KK[name], parts.forward_KK[name], rtol=1e-4, atol=1e-4)


def test_without_gradients_there_is_no_gradient_gram(
    make_llama: Callable[[], PreTrainedModel], make_task: Callable[..., EncodedTask]
) -> None:
    grams = gather(make_llama(), make_task("lm"), gradients=False)
    gram_C, gram_G = grams.of("model.layers.0.mlp.up_proj")
    assert gram_C is not None
    assert gram_G is None
    assert grams.of("unknown") == (None, None)


def test_seed_decides_the_gradients_alone(
    make_llama: Callable[[], PreTrainedModel], make_task: Callable[..., EncodedTask]
) -> None:
    model, task = make_llama(), make_task("lm")
    first, again, other = (gather(model, task, seed=seed, budget=40) for seed in (1, 1, 2))
    for name, gram_OO in first.backward_KK.items():
        assert gram_OO.equal(again.backward_KK[name])
        assert not gram_OO.equal(other.backward_KK[name])
    assert all(gram_DD.equal(other.forward_KK[name]) for name, gram_DD in first.forward_KK.items())


def test_passes_fill_the_memory_in_order() -> None:
    shapes = [
        MatrixShape(name=str(i), out_features=out, in_features=8, layer=i, kind="m")
        for i, out in enumerate((4, 4, 8, 2, 2, 4))
    ]
    sizes = [2 * 8 * min(8, out) ** 2 for out in (4, 4, 8, 2, 2, 4)]
    assert sizes == [256, 256, 1024, 64, 64, 256]
    assert [[m.name for m in group] for group in passes(shapes, 512)] == [["0", "1"], ["2"], ["3", "4", "5"]]
    assert len(passes(shapes, 10**6)) == 1
    assert [len(group) for group in passes(shapes, 1024, from_input=True)] == [1] * 6


def test_model_is_left_as_it_was(
    make_llama: Callable[[], PreTrainedModel], make_task: Callable[..., EncodedTask]
) -> None:
    model = make_llama()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gather(model, make_task("choice"))
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_activation_that_is_not_finite_is_named(
    make_llama: Callable[[], PreTrainedModel], make_task: Callable[..., EncodedTask]
) -> None:
    model = make_llama()
    model.get_parameter("model.layers.0.mlp.gate_proj.weight")[0, 0] = torch.nan
    with pytest.raises(ScoringError, match=r"activation of model\.layers\.0\.mlp\.down_proj .* batch 0"):
        gather(model, make_task("choice"), gradients=False)


def test_gradient_that_is_not_finite_is_named(
    make_llama: Callable[[], PreTrainedModel], make_task: Callable[..., EncodedTask]
) -> None:
    def break_gradient(_: object, __: object, output: torch.Tensor) -> None:
        output.register_hook(lambda grad: grad * torch.nan)

    model = make_llama()
    model.get_submodule("model.norm").register_forward_hook(break_gradient)
    with pytest.raises(ScoringError, match=r"gradient of model\.layers\.1\.mlp\.down_proj .* batch 0"):
        gather(model, make_task("choice"))


@pytest.mark.parametrize("gradients", [True, False])
def test_logits_that_are_not_finite_are_refused(
    make_llama: Callable[[], PreTrainedModel], make_task: Callable[..., EncodedTask], gradients: bool
) -> None:
    model = make_llama()
    model.get_parameter("lm_head.weight")[0, 0] = torch.inf
    with pytest.raises(ScoringError, match="logits are not finite in calibration batch 0"):
        gather(model, make_task("choice"), gradients=gradients)
