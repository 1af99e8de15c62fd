from collections.abc import Callable

import pytest
from transformers import PreTrainedModel

from ranksieve.search.errors import ScoringError
from ranksieve.workers.rivals.rival import Setup, scores_of, whole
from ranksieve.workers.rivals.tuning import best_tuned, tune

Tuned = Callable[[float], PreTrainedModel]


def tuner(setup: Setup) -> Tuned:
    def tuned(rate: float) -> PreTrainedModel:
        model = setup.load()
        tune(setup, model, list(model.requires_grad_(requires_grad=True).parameters()), rate)
        return model

    return tuned


@pytest.mark.parametrize("kind", ["choice", "generate", "lm"])
def test_the_right_answers_get_likelier(make_setup: Callable[..., Setup], kind: str) -> None:
    setup = make_setup(kind)
    before, after = (
        scores_of(setup, model)(whole(setup, "calibration", loss_only=True)).nll_nats.mean()
        for model in (setup.load(), tuner(setup)(1e-2))
    )
    assert after < 0.9 * before


def test_the_best_rate_is_chosen_on_the_search_split(setup: Setup) -> None:
    model, rate = best_tuned(setup, tuner(setup), (1e-7, 1e-2))
    assert rate == 1e-2
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_rate_that_diverges_is_passed_over(setup: Setup) -> None:
    assert best_tuned(setup, tuner(setup), (1e-2, 1e30))[1] == 1e-2
    with pytest.raises(ScoringError, match=r"no learning rate works: .*not finite"):
        best_tuned(setup, tuner(setup), (1e30,))
