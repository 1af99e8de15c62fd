from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MixtralConfig, MixtralForCausalLM, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from ranksieve.search.errors import ScoringError
from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.workers.factors import answer_bias as answer_biases
from ranksieve.workers.factors.answer_bias import fixed_answers
from ranksieve.workers.factors.refit import least_squares, load_fitted, refit, refit_to_file, using_fitted
from ranksieve.workers.forward.batches import make_batches
from ranksieve.workers.forward.likelihood import answer_logits, right_choices
from ranksieve.workers.forward.loss import log_likelihoods
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.types.plan import EncodedTask, Example

BUDGET = 40

Inputs = dict[str, torch.Tensor]


def run(
    switchable: SwitchableModel,
    matrices: Sequence[MatrixShape],
    ranks: Sequence[int],
    examples: Sequence[Example],
    alpha: float = 0.5,
    budget: int = BUDGET,
) -> Inputs:
    *blocks, head = list(refit(switchable, ranks, examples, budget, alpha))
    assert [(block.done, block.total) for block in (*blocks, head)] == [(1, 3), (2, 3), (3, 3)]
    assert set(head.fitted) == ({"lm_head:bias"} if examples[0].choices > 1 else set())
    for index, block in enumerate(blocks):
        layers = {matrix.name: matrix.layer for matrix in matrices}
        assert {layers[key.rsplit(":", 1)[0]] for key in block.fitted} <= {index}
    return {key: tensor for block in (*blocks, head) for key, tensor in block.fitted.items()}


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_every_matrix_equals_lstsq_on_what_it_reads(
    candidate: Any, make_task: Callable[..., EncodedTask], inputs_of: Callable[..., Inputs], alpha: float
) -> None:
    switchable, matrices, ranks = candidate
    examples = make_task("choice").splits["search"]
    assert len({len(row.ids) for example in examples for row in example.rows}) > 5
    switchable.switch([DENSE] * len(matrices))
    dense = inputs_of(switchable.model, matrices, examples)
    new = run(switchable, matrices, ranks, examples, alpha)
    with using_fitted(switchable, new):
        read = inputs_of(switchable.model, matrices, examples)
    gone = switchable.skipped(ranks)
    assert gone
    for matrix, rank in zip(matrices, ranks, strict=True):
        module: Any = switchable.model.get_submodule(matrix.name)
        rank = 0 if matrix.name in gone else rank
        assert module.rank == rank
        assert (f"{matrix.name}:left" in new) == (rank > 0)
        assert (f"{matrix.name}:bias" in new) == (rank > 0 and module.bias is not None)
        if rank > 0:
            x_TD, wanted_TD = read[matrix.name], torch.lerp(read[matrix.name], dense[matrix.name], alpha)
            z_Tr = (x_TD @ module.right_RD[:rank].T).double()
            target_TO = (wanted_TD @ module.weight.T).double()
            got_TO = z_Tr @ new[f"{matrix.name}:left"].double()
            old_TO = z_Tr @ module.left_RO[:rank].double()
            if module.bias is not None:
                got_TO = got_TO + (new[f"{matrix.name}:bias"] - module.bias)
                z_Tr = torch.cat([z_Tr, torch.ones(len(z_Tr), 1, dtype=torch.float64)], dim=1)
            best_TO = z_Tr @ torch.linalg.lstsq(z_Tr, target_TO).solution
            assert (got_TO - best_TO).norm() < 1e-3 * target_TO.norm()
            assert (got_TO - target_TO).norm() < (old_TO - target_TO).norm()


def test_candidate_comes_nearer_to_the_dense_model(
    candidate: Any, make_task: Callable[..., EncodedTask]
) -> None:
    """Measured at the logits, on the tokens that it was fitted to; the head's bias is for what is right."""
    switchable, matrices, ranks = candidate
    examples = make_task("choice").splits["search"]

    @torch.inference_mode()
    def logits(ranks: Sequence[int]) -> torch.Tensor:
        switchable.switch(ranks)
        rows = [row for example in examples for row in example.rows]
        return torch.cat([switchable.model(input_ids=torch.tensor([row.ids])).logits[0] for row in rows])

    def error() -> float:
        return float((logits(ranks) - logits([DENSE] * len(matrices))).norm())

    before, new = error(), run(switchable, matrices, ranks, examples, alpha=1.0)
    del new["lm_head:bias"]
    with using_fitted(switchable, new):
        assert error() < 0.95 * before


def test_full_rank_is_exact_and_stays(
    make_llama: Callable[..., PreTrainedModel],
    make_switchable: Callable[..., Any],
    make_task: Callable[..., EncodedTask],
) -> None:
    model = make_llama()
    switchable, matrices = make_switchable(model)
    ranks = [min(matrix.in_features, matrix.out_features) for matrix in matrices]
    examples = make_task("lm").splits["search"]
    new = run(switchable, matrices, ranks, examples, alpha=1.0)
    ids_BL = torch.tensor([[4, 9, 30, 12, 7], [20, 3, 5, 41, 17]])
    switchable.switch([DENSE] * len(matrices))
    expected = model(ids_BL).logits
    switchable.switch(ranks)
    with using_fitted(switchable, new):
        torch.testing.assert_close(model(ids_BL).logits, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("own", [None, 0.5])
@pytest.mark.parametrize("factors", [False, True])
def test_head_gets_the_bias_that_makes_right_answers_likeliest(
    candidate: Any, make_task: Callable[..., EncodedTask], own: float | None, factors: bool
) -> None:
    """With the bias the model's own derivative of likelihood and prior is zero at each token of the answers.

    It comes on top of the head's own, or of the one that goes with the factors.
    """
    switchable, matrices, ranks = candidate
    head = switchable.model.get_output_embeddings()
    if own is not None and factors:
        switchable.set_answer_bias(torch.full((48,), own))
    elif own is not None:
        head.bias = torch.nn.Parameter(torch.full((48,), own), requires_grad=False)
    examples = make_task("choice").splits["search"]
    new = run(switchable, matrices, ranks, examples)
    (batch,) = make_batches(examples, 3, 10_000)
    with using_fitted(switchable, new):
        bias_V = head.bias.requires_grad_()
        logp = log_likelihoods("choice", answer_logits(switchable.model, batch), examples, batch, 3)
        right = right_choices(examples, batch, logp.device)
        (-logp[torch.arange(len(right)), right].sum()).backward()
    shift_V = bias_V.detach() - (own or 0.0)
    tokens = list(fixed_answers(examples))
    assert shift_V.nonzero().flatten().tolist() == tokens
    torch.testing.assert_close(-bias_V.grad[tokens], shift_V[tokens], atol=1e-3, rtol=1e-3)
    assert (None if own is None else own) == (None if head.bias is None else float(head.bias[0]))


def test_head_stays_where_its_logits_are_changed_behind_it(
    candidate: Any, make_task: Callable[..., EncodedTask]
) -> None:
    switchable, _, ranks = candidate

    def capped(_: torch.nn.Module, __: Any, output: CausalLMOutputWithPast) -> CausalLMOutputWithPast:
        output.logits = 30 * (output.logits / 30).tanh()
        return output

    switchable.model.register_forward_hook(capped)
    *_, head = refit(switchable, ranks, make_task("choice").splits["search"], BUDGET, 0.5)
    assert not head.fitted


def test_head_gets_no_bias_where_there_would_be_too_many_numbers(
    candidate: Any, make_task: Callable[..., EncodedTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five tokens at each of the positions that are read; where two answers are predicted at one it counts once."""
    switchable, _, ranks = candidate
    examples = make_task("choice").splits["search"]
    read = sum(row.reads for example in examples for row in example.rows)
    for most, fitted in ((5 * read, {"lm_head:bias"}), (5 * read - 1, set())):
        monkeypatch.setattr(answer_biases, "MOST_NUMBERS", most)
        *_, head = refit(switchable, ranks, examples, BUDGET, 0.5)
        assert set(head.fitted) == fitted


def test_routers_that_are_to_tell_of_themselves_do_not_in_the_way(
    make_switchable: Callable[..., Any], make_task: Callable[..., EncodedTask]
) -> None:
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=48, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=4, output_router_logits=True,
    )  # fmt: skip
    switchable, matrices = make_switchable(MixtralForCausalLM(config).eval())
    *_, head = refit(switchable, [4] * len(matrices), make_task("choice").splits["search"], BUDGET, 0.5)
    assert set(head.fitted) == {"lm_head:bias"}


def test_model_is_left_as_it_was(candidate: Any, make_task: Callable[..., EncodedTask]) -> None:
    switchable, matrices, ranks = candidate
    examples = make_task("lm").splits["search"]
    modules = [switchable.model.get_submodule(matrix.name) for matrix in matrices]
    own = [
        (module.left_RO, module.left_RO.clone(), module.right_RD.clone(), module.bias) for module in modules
    ]
    new = run(switchable, matrices, ranks, examples)
    with using_fitted(switchable, new):
        assert all(len(module.left_RO) == module.rank for module in modules if module.rank > 0)
    live = [module.rank for module in modules]
    stopped = refit(switchable, ranks, examples, BUDGET, 1.0)
    next(stopped)
    stopped.close()  # type: ignore[attr-defined]
    for module, (left_RO, left_copy, right_copy, bias), rank in zip(modules, own, live, strict=True):
        assert module.left_RO is left_RO
        assert module.bias is bias
        assert left_RO.equal(left_copy)
        assert module.right_RD.equal(right_copy)
        assert module.rank == rank
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    blocks = switchable.model.get_submodule(matrices[0].name.split(".0.")[0])
    assert all("forward" not in vars(block) for block in blocks.children())


def test_file_holds_what_was_fitted(
    candidate: Any, make_task: Callable[..., EncodedTask], tmp_path: Path
) -> None:
    switchable, matrices, ranks = candidate
    examples, file = make_task("choice").splits["search"], tmp_path / "left.safetensors"
    refit_to_file(switchable, ranks, examples, BUDGET, 0.5, file)
    expected, got = run(switchable, matrices, ranks, examples), load_fitted(file)
    assert got.keys() == expected.keys()
    assert all(got[key].equal(tensor) for key, tensor in expected.items())
    assert list(tmp_path.iterdir()) == [file]
    assert load_fitted(None) == {}


def test_no_part_of_a_file_is_left(
    candidate: Any, make_task: Callable[..., EncodedTask], tmp_path: Path
) -> None:
    switchable, _, ranks = candidate
    file = tmp_path / "left.safetensors"
    file.mkdir()  # nothing can be put in its place
    with pytest.raises(IsADirectoryError):
        refit_to_file(switchable, ranks, make_task("choice").splits["search"], BUDGET, 0.5, file)
    assert list(tmp_path.iterdir()) == [file]


def test_same_twice_and_with_any_batches(candidate: Any, make_task: Callable[..., EncodedTask]) -> None:
    switchable, matrices, ranks = candidate
    switchable.model.double()  # in float32, what processors round differently exceeds the bound below
    examples = make_task("choice").splits["search"]
    first, second, padded = (
        run(switchable, matrices, ranks, examples, budget=budget) for budget in (BUDGET, BUDGET, 10_000)
    )
    for key, tensor in first.items():
        assert tensor.equal(second[key])
        assert (tensor - padded[key]).norm() < 1e-3 * tensor.norm()


def test_half_precision_keeps_its_dtype(
    make_llama: Callable[..., PreTrainedModel],
    make_switchable: Callable[..., Any],
    make_task: Callable[..., EncodedTask],
) -> None:
    switchable, matrices = make_switchable(make_llama().bfloat16())
    new = run(switchable, matrices, [6] * len(matrices), make_task("choice").splits["search"])
    assert {tensor.dtype for tensor in new.values()} == {torch.bfloat16}
    assert all(torch.isfinite(tensor).all() for tensor in new.values())


def random_problem(tokens: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    scale_r = torch.tensor([1e3, 1.0, 1e-3, 1e-5])  # of the components: no reason to lose the smallest
    weight_OD, left_rO = torch.randn(7, 9, generator=generator), torch.randn(4, 7, generator=generator)
    x_TD = torch.randn(tokens, 9, generator=generator).double()
    z_Tr = x_TD @ torch.randn(9, 4, generator=generator).double() * scale_r
    return weight_OD, left_rO / scale_r[:, None], x_TD, z_Tr


def test_least_squares_by_hand() -> None:
    weight_OD, left_rO, x_TD, z_Tr = random_problem(50)
    got = least_squares(weight_OD, left_rO, x_TD.T @ z_Tr, z_Tr.T @ z_Tr)
    expected = torch.linalg.lstsq(z_Tr, x_TD @ weight_OD.double().T).solution
    assert ((got - expected).norm(dim=1) < 1e-4 * expected.norm(dim=1)).all()


def test_what_no_token_shows_stays() -> None:
    weight_OD, left_rO, x_TD, z_Tr = random_problem(2)
    z_Tr[:, 3] = 0
    got_rO = least_squares(weight_OD, left_rO, x_TD.T @ z_Tr, z_Tr.T @ z_Tr)
    target_TO = x_TD @ weight_OD.double().T
    torch.testing.assert_close(z_Tr @ got_rO, target_TO, rtol=1e-3, atol=1e-3)
    assert got_rO[3].equal(left_rO[3].double())
    nothing = torch.zeros(4, 4, dtype=torch.float64)
    assert least_squares(weight_OD, left_rO, torch.zeros(9, 4).double(), nothing).equal(left_rO.double())


def test_refuses_a_share_outside_its_range(candidate: Any, make_task: Callable[..., EncodedTask]) -> None:
    switchable, matrices, ranks = candidate
    with pytest.raises(ValueError, match=r"alpha must be in \[0, 1\], got 1.5"):
        run(switchable, matrices, ranks, make_task("lm").splits["search"], alpha=1.5)


def test_names_the_matrix_whose_input_is_broken(
    candidate: Any, make_task: Callable[..., EncodedTask]
) -> None:
    switchable, matrices, ranks = candidate
    switchable.model.get_input_embeddings().weight.fill_(torch.inf)
    with pytest.raises(ScoringError, match=rf"the input of {matrices[1].name} in .* is not finite"):
        run(switchable, matrices, ranks, make_task("lm").splits["search"])


def test_tells_of_logits_that_are_not_finite(candidate: Any, make_task: Callable[..., EncodedTask]) -> None:
    switchable, matrices, ranks = candidate
    head = switchable.model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, args: (args[0] * torch.nan,))
    with pytest.raises(ScoringError, match="logits are not finite"):
        run(switchable, matrices, ranks, make_task("choice").splits["search"])
