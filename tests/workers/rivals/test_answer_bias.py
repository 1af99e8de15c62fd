import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import CausalLMOutputWithPast

from ranksieve.search.errors import ScoringError
from ranksieve.workers.forward.batches import make_batches
from ranksieve.workers.forward.likelihood import answer_logits, right_choices
from ranksieve.workers.forward.loss import log_likelihoods
from ranksieve.workers.rivals import answer_bias
from ranksieve.workers.rivals.answer_bias import add_answer_bias, fit_answer_bias, fixed_answers
from ranksieve.workers.rivals.rival import Setup
from ranksieve.workers.types.plan import EncodedTask, Example

Fit = Callable[[list[int], list[float]], torch.Tensor]


@pytest.fixture
def fit() -> Fit:
    """A fit to labels, for one-token answers that are equally likely in all examples."""

    def fitted(labels: list[int], likely: list[float]) -> torch.Tensor:
        examples, choices = len(labels), len(likely)
        return fit_answer_bias(
            torch.tensor(likely).log().repeat(examples, 1),
            torch.arange(examples).repeat_interleave(choices),
            torch.arange(choices).repeat(examples),
            torch.arange(examples * choices),
            torch.tensor(labels),
            torch.ones(examples, choices, dtype=torch.bool),
        )

    return fitted


def test_leaning_is_made_up_for(fit: Fit) -> None:
    """Three of four records are negative, but the model finds positive three times as likely."""
    bias_U = fit([0, 0, 0, 1] * 1000, [0.1, 0.3])
    assert bias_U.sum() == pytest.approx(0, abs=1e-6)
    assert bias_U[0] - bias_U[1] == pytest.approx(math.log(9), rel=1e-2)


def test_prior_holds_few_records_back(fit: Fit) -> None:
    """The slope of the posterior is zero: what records miss, the prior has."""
    bias_U = fit([0, 0, 1], [0.2, 0.2, 0.2])
    missed_U = torch.tensor([2.0, 1.0, 0.0]) - 3 * bias_U.softmax(dim=0)
    torch.testing.assert_close(bias_U, missed_U, atol=1e-4, rtol=1e-4)


def test_answer_that_is_never_right_stays_possible(fit: Fit) -> None:
    bias_U = fit([0] * 5000, [0.3, 0.3])
    assert -5 < bias_U[1] < -3


def test_longer_answers_by_their_own_tokens() -> None:
    """Answers of two tokens, the first of which they share: no bias can gain by it."""
    logp_QU = torch.tensor(
        [[0.5, 0.2, 0.2], [0.1, 0.6, 0.2]]
    ).log()  # after the prompt, after the first token
    bias_U = fit_answer_bias(
        logp_QU.repeat(50, 1),
        (torch.tensor([0, 1, 0, 1]) + 2 * torch.arange(50)[:, None]).flatten(),
        torch.tensor([0, 1, 0, 2]).repeat(50),
        torch.arange(100).repeat_interleave(2),
        torch.ones(50, dtype=torch.long),
        torch.ones(50, 2, dtype=torch.bool),
    )
    assert bias_U[2] > 1 > -1 > bias_U[1]
    assert abs(bias_U[0]) < 0.1 * bias_U[2]


def test_fixed_answers(make_task: Callable[..., EncodedTask], choice_example: Callable[..., Example]) -> None:
    assert fixed_answers(make_task("choice").splits["search"]) == (5, 6, 7, 8, 9)
    assert fixed_answers(make_task("lm").splits["search"]) == ()
    assert fixed_answers(make_task("generate").splits["search"]) == ()
    own = [choice_example((4, 5), ((6,), (7,)), 0), choice_example((4, 5), ((7,), (6,)), 0)]
    assert fixed_answers(own[:1]) == (6, 7)
    assert fixed_answers(own) == ()


BUDGET = 40


@pytest.mark.parametrize("own", [None, 0.5])
def test_only_the_answers_have_a_bias_and_it_is_where_likelihood_and_prior_meet(
    setup: Setup, own: float | None
) -> None:
    model, examples = setup.load(), setup.task.splits["calibration"]
    head = model.get_output_embeddings()
    if own is not None:
        head.bias = torch.nn.Parameter(torch.full((48,), own), requires_grad=False)
    assert add_answer_bias(model, examples, BUDGET)
    added_V = head.bias.detach() - (own or 0.0)
    tokens = list(fixed_answers(examples))
    assert added_V.nonzero().flatten().tolist() == tokens

    head.bias.requires_grad_()
    for batch in make_batches(examples, 2, 10_000):
        logp = log_likelihoods("choice", answer_logits(model, batch), examples, batch, 2)
        right = right_choices(examples, batch, logp.device)
        (-logp[torch.arange(len(right)), right].sum()).backward()
    torch.testing.assert_close(-head.bias.grad[tokens], added_V[tokens], atol=1e-3, rtol=1e-3)


def test_a_head_whose_logits_are_changed_behind_it_gets_no_bias(setup: Setup) -> None:
    model = setup.load()

    def cap(_: torch.nn.Module, __: Any, output: CausalLMOutputWithPast) -> CausalLMOutputWithPast:
        assert output.logits is not None
        output.logits = 30 * (output.logits / 30).tanh()
        return output

    model.register_forward_hook(cap)
    assert not add_answer_bias(model, setup.task.splits["calibration"], BUDGET)
    assert model.get_output_embeddings().bias is None


def test_there_is_no_bias_where_there_would_be_too_many_numbers(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two tokens at each of the positions that are read; where two answers are predicted at one it counts once."""
    examples = setup.task.splits["calibration"]
    read = sum(row.reads for example in examples for row in example.rows)
    for most, fitted in ((2 * read, True), (2 * read - 1, False)):
        monkeypatch.setattr(answer_bias, "MOST_NUMBERS", most)
        assert add_answer_bias(setup.load(), examples, BUDGET) == fitted


def test_logits_that_are_not_finite_are_told(setup: Setup) -> None:
    model = setup.load()
    model.get_output_embeddings().register_forward_pre_hook(lambda _, args: (args[0] * torch.nan,))
    with pytest.raises(ScoringError, match="logits are not finite"):
        add_answer_bias(model, setup.task.splits["calibration"], BUDGET)
