import math
from collections.abc import Callable

import pytest
import torch

from ranksieve.workers.factors.answer_bias import fit_answer_bias, fixed_answers
from ranksieve.workers.types.plan import EncodedTask, Example

Fit = Callable[[list[int], list[float]], torch.Tensor]


@pytest.fixture
def fit() -> Fit:
    """Of one-token answers that are as likely in every example, by the labels."""

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
    """Of many records three in four are negative, and the model holds positive for thrice as likely."""
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
