from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2LMHeadModel, PreTrainedModel

from ranksieve.search.errors import InputError, ScoringError
from ranksieve.workers.factors import calibration
from ranksieve.workers.factors.calibration import Calibrator
from ranksieve.workers.factors.fisher import loss_of
from ranksieve.workers.factors.grams import Grams, GramSum
from ranksieve.workers.factors.passes import shard_of
from ranksieve.workers.forward.batches import make_batches
from ranksieve.workers.model.matrices import find_matrices, weight_OD
from ranksieve.workers.types.plan import EncodedTask, Example

ONE_BATCH = 10_000
SEED = 7


def gather(model: PreTrainedModel, task: EncodedTask, *, seed: int = SEED, budget: int = ONE_BATCH) -> Grams:
    with Calibrator(model, find_matrices(model)) as calibrator:
        steps = list(calibrator.run(task.kind, task.splits["calibration"], budget, seed))
    assert steps == [(index + 1, len(steps)) for index in range(len(steps))]
    return calibrator.grams


@dataclass(kw_only=True)
class Moments:
    """Unnormalised, the forward and the backward one of every matrix; `sent`: how many tokens each ran on."""

    tokens: int
    sent: dict[str, int]
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]


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

    def grams(self, *losses: torch.Tensor) -> Moments:
        """Of everything that ran; gradient Grams summed over the losses."""
        flat = [output for name in self._names for output in self._outputs[name]]
        each = [torch.autograd.grad(loss, flat, retain_graph=True) for loss in losses]
        grads = iter([torch.stack(tensors) for tensors in zip(*each, strict=True)])
        sent = {name: sum(rows.shape[:-1].numel() for rows in self._inputs[name]) for name in self._names}
        moments = Moments(tokens=self.tokens, sent=sent, pairs={})
        for name in self._names:
            weight = weight_OD(self._model.get_submodule(name)).detach()  # type: ignore[arg-type]
            gram_C = gram(self._inputs[name])
            gram_G = gram([next(grads) for _ in self._outputs[name]])
            weight = weight.double()
            narrow_output = weight.shape[0] <= weight.shape[1]
            moments.pairs[name] = (
                (weight @ gram_C @ weight.T, gram_G)
                if narrow_output
                else (gram_C, weight.T @ gram_G @ weight)
            )
        return moments

    def _hook(self, name: str) -> Callable[..., None]:
        def keep(_: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            self._inputs[name].append(args[0])
            self._outputs[name].append(output if output.requires_grad else output.requires_grad_())

        return keep


def assert_same(grams: Grams, expected: Moments) -> None:
    assert grams.tokens == expected.tokens
    for name, pair in expected.pairs.items():
        for got, summed, tokens in zip(
            grams.of(name), pair, (expected.tokens, expected.sent[name]), strict=True
        ):
            assert got is not None
            assert got.dtype == torch.float64
            wanted = summed / tokens
            scale = float(wanted.abs().max())
            torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-5 * scale)


def sums(grams: dict[str, GramSum]) -> dict[str, torch.Tensor]:
    return {name: gram.panels_P for name, gram in grams.items()}


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


def naive_choice(model: PreTrainedModel, task: EncodedTask) -> Moments:
    naive = Naive(model)
    examples = by_length(task.splits["calibration"])
    beliefs = [answer_scores(naive, example).log_softmax(0) for example in examples]
    padded_SC = torch.nn.utils.rnn.pad_sequence(beliefs, batch_first=True, padding_value=-20.0)
    return naive.grams(
        *((padded_SC.detach() / 2).exp() * padded_SC).sum(dim=0)
    )  # every label, by its probability


def naive_tokens(model: PreTrainedModel, task: EncodedTask) -> Moments:
    naive = Naive(model)
    logp_NV = torch.cat([naive.logp(example)[0] for example in by_length(task.splits["calibration"])])
    state = np.random.SeedSequence((SEED, 0)).generate_state(1, np.uint64)  # of the seed and the only batch
    generator = torch.Generator().manual_seed(int(state[0]))
    signs_NV = 2.0 * torch.randint(0, 2, logp_NV.shape, generator=generator) - 1
    belief_NV = logp_NV.detach().exp()
    # In the logits: log-probabilities pass on what sums to zero as it is, and weights A ε do.
    factor_NVV = torch.diag_embed(belief_NV.sqrt()) - belief_NV[:, :, None] * belief_NV.sqrt()[:, None, :]
    return naive.grams(((factor_NVV @ signs_NV[:, :, None])[:, :, 0] * logp_NV).sum())


@pytest.mark.parametrize("kind", ["choice", "lm"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixture"])
def test_grams_equal_a_naive_computation(
    make_llama: Callable[[], PreTrainedModel],
    make_gpt2: Callable[[], GPT2LMHeadModel],
    make_mixture: Callable[[], PreTrainedModel],
    make_task: Callable[..., EncodedTask],
    kind: str,
    architecture: str,
) -> None:
    make = {"llama": make_llama, "gpt2": make_gpt2, "mixture": make_mixture}[architecture]
    task = make_task(kind)
    if kind == "choice":
        task = with_choices(task, 2)  # one direction each, which any probe finds
    grams = gather(make(), task)
    expected = (naive_choice if kind == "choice" else naive_tokens)(make(), task)
    assert_same(grams, expected)


def test_probes_of_three_choices_average_to_the_fisher_information(
    make_llama: Callable[[], PreTrainedModel], make_task: Callable[..., EncodedTask]
) -> None:
    model, task = make_llama(), with_choices(make_task("choice"), 3)
    exact = naive_choice(make_llama(), task)
    probes = [gather(model, task, seed=seed) for seed in range(48)]

    def error(name: str, count: int) -> float:
        mean = torch.stack([grams.backward[name].whole_KK() for grams in probes[:count]]).mean(dim=0)
        expected = exact.pairs[name][1]
        return float((mean - expected).norm() / expected.norm())

    for name in exact.pairs:
        assert error(name, 48) < 0.5 * error(name, 1) < 0.5
        assert error(name, 48) < 0.15


def test_probes_of_tokens_average_to_the_fisher_information_of_a_model_that_is_sure() -> None:
    logits_NV = torch.tensor([[6.0, 0.0, -1.0, 0.5], [0.1, 0.2, 0.3, -0.4]], requires_grad=True)
    belief_NV = logits_NV.detach().double().softmax(dim=1)
    exact_NVV = torch.diag_embed(belief_NV) - belief_NV[:, :, None] * belief_NV[:, None, :]
    generator = torch.Generator().manual_seed(SEED)
    batch: Any = None  # what is drawn does not depend on the answers
    squares = []
    for _ in range(400):
        loss = loss_of("lm", logits_NV, (), batch, 1, generator)
        (grad_NV,) = torch.autograd.grad(loss, logits_NV)
        squares.append(grad_NV[:, :, None].double() * grad_NV[:, None, :].double())
    each = torch.stack(squares)

    assert ((each.mean(dim=0) - exact_NVV).norm(dim=(1, 2)) < 0.1 * exact_NVV.norm(dim=(1, 2))).all()
    norms_SN = each.diagonal(dim1=2, dim2=3).sum(dim=2)
    assert (
        norms_SN.std(dim=0) < norms_SN.mean(dim=0)
    ).all()  # of drawn labels, ten times the mean for the sure one


def test_an_expert_that_runs_twice_is_seen_twice(
    make_mixture: Callable[[], PreTrainedModel], make_task: Callable[..., EncodedTask]
) -> None:
    """With other tokens: each time those count, forwards and backwards, that are sent to it then."""

    def make() -> Any:
        model: Any = make_mixture()
        once = model.model.layers[0].mlp.forward
        model.model.layers[0].mlp.forward = lambda x_BLD: once(once(x_BLD))
        return model

    task = with_choices(make_task("choice"), 2)
    assert_same(gather(make(), task), naive_choice(make(), task))


def test_which_tokens_of_an_expert_are_real_is_found_once_for_its_matrices(
    make_mixture: Callable[[], PreTrainedModel],
    make_task: Callable[..., EncodedTask],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows: list[torch.Tensor] = []

    def kept(rows_BLN: torch.Tensor, rows_T: torch.Tensor) -> torch.Tensor:
        rows.append(rows_T)
        return rows_of(rows_BLN, rows_T)

    rows_of = calibration._rows_of
    monkeypatch.setattr(calibration, "_rows_of", kept)
    grams = gather(make_mixture(), make_task("choice"))
    reached = {name.rpartition(".")[0] for name, sent in grams.sent.items() if sent}
    assert len({id(rows_T) for rows_T in rows}) == 1 + len(
        reached
    )  # those of the batch, those of each expert


def test_an_expert_is_told_of_by_the_answers_that_its_tokens_lead_to(
    make_mixture: Callable[..., PreTrainedModel], make_task: Callable[..., EncodedTask]
) -> None:
    task = make_task("choice")
    grams = gather(make_mixture(experts=16), task)
    last = [name for name in grams.moved if "layers.1." in name]
    reads = sum(row.reads for example in task.splits["calibration"] for row in example.rows)
    downs = [grams.moved[name] for name in last if name.endswith("down")]
    assert 0 < sum(downs) <= 2 * reads  # of the last block only the tokens that are read; each is sent to two
    assert 0 in downs
    for name, moved in grams.moved.items():
        assert ".experts." in name
        assert grams.answers_of(name) == min(moved, grams.answers)
    assert any(0 < grams.answers_of(name) < grams.answers for name in last)
    assert grams.answers_of("model.layers.1.self_attn.q_proj") == grams.answers


def test_experts_of_other_tokens_than_the_batch_has_are_refused(
    make_mixture: Callable[[], PreTrainedModel], make_task: Callable[..., EncodedTask]
) -> None:
    model: Any = make_mixture()
    mlp = model.model.layers[0].mlp
    forward = mlp.forward
    mlp.forward = lambda x_BLD: torch.cat([forward(x_BLD[:, :-1].contiguous()), x_BLD[:, -1:]], dim=1)
    refused = r"0\.mlp\.experts\.\d\.\w+ cannot be calibrated: it ran on \d+ tokens, expected the batch's"
    with pytest.raises(InputError, match=refused):
        gather(model, make_task("choice"))


def test_one_input_gram_for_matrices_that_read_the_same(
    make_llama: Callable[[], PreTrainedModel], make_task: Callable[..., EncodedTask]
) -> None:
    grams = gather(make_llama(), make_task("choice"))
    first = "model.layers.0."
    owners = {name.removeprefix(first): owner for name, owner in grams.forward_of.items() if first in name}
    assert owners == {"mlp.gate_proj": first + "mlp.gate_proj", "mlp.up_proj": first + "mlp.gate_proj"}
    assert len(grams.forward) == 12
    assert len(grams.backward) == 14


def test_seed_decides_the_gradients_alone(
    make_llama: Callable[[], PreTrainedModel], make_task: Callable[..., EncodedTask]
) -> None:
    model, task = make_llama(), make_task("lm")
    first, again, other = (gather(model, task, seed=seed, budget=40) for seed in (1, 1, 2))
    for name, gram_P in sums(first.backward).items():
        assert gram_P.equal(sums(again.backward)[name])
        assert not gram_P.equal(sums(other.backward)[name])
    assert all(gram_P.equal(sums(other.forward)[name]) for name, gram_P in sums(first.forward).items())


@pytest.mark.parametrize("kind", ["choice", "generate", "lm"])
def test_independent_answers_are_counted(
    make_llama: Callable[[], PreTrainedModel], make_task: Callable[..., EncodedTask], kind: str
) -> None:
    task = make_task(kind)
    examples = task.splits["calibration"]
    tokens = sum(len(span.ids) for example in examples for row in example.rows for span in row.spans)
    assert gather(make_llama(), task).answers == (len(examples) if kind == "choice" else tokens)


def test_shards_in_any_order_add_up_to_one_pass_over_all(
    make_llama: Callable[[], PreTrainedModel], make_task: Callable[..., EncodedTask]
) -> None:
    model, task = make_llama(), make_task("lm")
    expected = gather(model, task, budget=20)
    batches = len(make_batches(task.splits["calibration"], 1, 20))
    total = Grams()
    for index in (2, 0, 1):
        with Calibrator(model, find_matrices(model)) as calibrator:
            shard = shard_of(index, 3, batches)
            steps = list(calibrator.run("lm", task.splits["calibration"], 20, SEED, shard))
        assert steps == [(done, len(shard)) for done in range(1, len(shard) + 1)]
        total.add_(calibrator.grams)
    assert total.tokens == expected.tokens
    assert total.answers == expected.answers
    for name in expected.backward:  # drawn labels too are those of the batch, whatever ran before
        for got, wanted in zip(total.of(name), expected.of(name), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


def test_model_is_left_as_it_was(
    make_llama: Callable[[], PreTrainedModel], make_task: Callable[..., EncodedTask]
) -> None:
    model = make_llama()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gather(model, make_task("choice"))
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def break_activations(model: PreTrainedModel) -> None:
    model.get_parameter("model.layers.0.mlp.gate_proj.weight")[0, 0] = torch.nan


def break_gradients(model: PreTrainedModel) -> None:
    def spoil(_: object, __: object, output: torch.Tensor) -> None:
        output.register_hook(lambda grad: grad * torch.nan)

    model.get_submodule("model.norm").register_forward_hook(spoil)


def break_logits(model: PreTrainedModel) -> None:
    model.get_parameter("lm_head.weight")[0, 0] = torch.inf


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (break_activations, r"activation of model\.layers\.0\.mlp\.down_proj .* batch 0"),
        (break_gradients, r"gradient of model\.layers\.1\.mlp\.down_proj .* batch 0"),
        (break_logits, "logits are not finite in calibration batch 0"),
    ],
)
def test_what_is_not_finite_is_named(
    make_llama: Callable[[], PreTrainedModel],
    make_task: Callable[..., EncodedTask],
    spoil: Callable[[PreTrainedModel], None],
    told: str,
) -> None:
    model = make_llama()
    spoil(model)
    with pytest.raises(ScoringError, match=told):
        gather(model, make_task("choice"))


def test_a_large_bias_leaves_the_outputs_of_a_matrix_what_they_are(
    make_gpt2: Callable[[], GPT2LMHeadModel], make_task: Callable[..., EncodedTask]
) -> None:
    """In bfloat16, where little of W x is left of its sum with a bias of a hundred times its size."""
    name, task = "transformer.h.0.attn.c_proj", make_task("choice")
    grams = []
    for dtype in (torch.bfloat16, torch.float32):
        model = make_gpt2().bfloat16()
        with torch.no_grad():
            bias: Any = model.get_submodule(name).bias
            bias.normal_(generator=torch.Generator().manual_seed(1)).mul_(100.0)
        matrices = [matrix for matrix in find_matrices(model) if matrix.name == name]
        with Calibrator(model.to(dtype), matrices) as calibrator:
            assert list(calibrator.run("choice", task.splits["calibration"], ONE_BATCH, SEED))
        grams.append(calibrator.grams.of(name)[0])
    assert (grams[0] - grams[1]).norm() < 0.02 * grams[1].norm()
