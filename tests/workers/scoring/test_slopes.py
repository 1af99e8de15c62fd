from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from ranksieve.search.errors import ScoringError
from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.workers.forward.batches import make_batches
from ranksieve.workers.forward.likelihood import answer_logits
from ranksieve.workers.forward.loss import log_likelihoods, task_losses
from ranksieve.workers.model.switchable import SwitchableModel, switchable_module
from ranksieve.workers.scoring.scorer import Scorer
from ranksieve.workers.scoring.slopes import measure_slopes
from ranksieve.workers.types.plan import EncodedTask, Example
from ranksieve.workers.types.scores import LossSlopes, ScoreRequest, Scores, join_slopes

BATCH_TOKENS = 64
KL_WEIGHT = 0.3
EPSILON = 1e-2


class Subject:
    """A tiny model in float32 and one task."""

    def __init__(
        self,
        switchable: SwitchableModel,
        matrices: tuple[MatrixShape, ...],
        task: EncodedTask,
        tokenizer: PreTrainedTokenizerFast,
    ) -> None:
        self.switchable, self.matrices, self.task, self.tokenizer = switchable, matrices, task, tokenizer
        self.examples = task.splits["calibration"]

    def index(self, name: str) -> int:
        return next(i for i, matrix in enumerate(self.matrices) if matrix.name.endswith(name))

    def measure_slopes(
        self,
        ranks: list[int],
        window: int = 1,
        batch_tokens: int = BATCH_TOKENS,
        known: list[torch.Tensor] | None = None,
    ) -> LossSlopes:
        return measure_slopes(
            self.switchable,
            ranks,
            self.task.kind,
            self.examples,
            batch_tokens,
            kl_weight=KL_WEIGHT,
            window=window,
            known=known,
        )

    @torch.no_grad()
    def loss(self, ranks: list[int]) -> float:
        choices = max(example.choices for example in self.examples)
        total = 0.0
        for batch in make_batches(self.examples, choices, BATCH_TOKENS):
            self.switchable.switch((DENSE,) * len(ranks))
            dense = answer_logits(self.switchable.model, batch)
            self.switchable.switch(ranks)
            logits = answer_logits(self.switchable.model, batch)
            kind, examples = self.task.kind, self.examples
            known = log_likelihoods(kind, dense, examples, batch, choices)
            logp = log_likelihoods(kind, logits, examples, batch, choices)
            loss = task_losses(kind, known, logp, examples, batch, KL_WEIGHT).sum()
            total += float(loss)
        return total

    def quality(self, ranks: Sequence[int]) -> np.ndarray:
        """As the scorer of candidates has it."""
        scorer = Scorer(self.switchable, self.tokenizer, self.task, BATCH_TOKENS)
        scores = scorer.score(
            ScoreRequest(ranks=tuple(ranks), split="calibration", start=0, stop=len(self.examples))
        )
        assert isinstance(scores, Scores)
        return scores.quality

    def slope(self, ranks: list[int], index: int, component: int) -> float:
        """Of the loss by the gate of a component that runs, by a central difference."""
        module = switchable_module(self.switchable.model, self.matrices[index].name)
        losses = []
        for sign in (1, -1):
            whole = module.left_RO
            module.left_RO = whole.clone()
            module.left_RO[component] *= 1 + sign * EPSILON
            losses.append(self.loss(ranks))
            module.left_RO = whole
        return (losses[0] - losses[1]) / (2 * EPSILON)


@pytest.fixture
def make_subject(
    make_llama: Callable[..., LlamaForCausalLM],
    make_switchable: Callable[..., tuple[SwitchableModel, tuple[MatrixShape, ...]]],
    make_task: Callable[..., EncodedTask],
    tokenizer: PreTrainedTokenizerFast,
) -> Callable[[str], Subject]:
    return lambda kind: Subject(*make_switchable(make_llama()), make_task(kind), tokenizer)


@pytest.fixture
def mixture(
    make_mixture: Callable[..., Any],
    make_switchable: Callable[..., tuple[SwitchableModel, tuple[MatrixShape, ...]]],
    make_task: Callable[..., EncodedTask],
    tokenizer: PreTrainedTokenizerFast,
) -> Subject:
    return Subject(*make_switchable(make_mixture()), make_task("choice"), tokenizer)


@pytest.mark.parametrize("kind", ["choice", "generate", "lm"])
@pytest.mark.parametrize("name", ["0.self_attn.q_proj", "1.mlp.down_proj", "0.mlp.gate_proj"])
def test_the_slope_of_what_is_kept_is_that_of_the_loss(
    make_subject: Callable[[str], Subject], kind: str, name: str
) -> None:
    subject = make_subject(kind)
    ranks = [3] * len(subject.matrices)
    index = subject.index(name)
    slopes = subject.measure_slopes(ranks)
    assert (slopes.start[index], slopes.rank[index], slopes.stop[index]) == (2, 3, 4)
    assert slopes.kept.shape == (len(subject.examples), len(subject.matrices))
    assert slopes.kept[:, index].sum() == pytest.approx(subject.slope(ranks, index, 2), rel=0.02, abs=1e-4)


def test_the_slope_of_what_is_cut_is_that_of_adding_a_little_of_it(
    make_subject: Callable[[str], Subject],
) -> None:
    subject = make_subject("choice")
    ranks = [3] * len(subject.matrices)
    index = subject.index("1.mlp.up_proj")
    slope = subject.measure_slopes(ranks).cut[:, index].sum()

    module = switchable_module(subject.switchable.model, subject.matrices[index].name)
    before, more = subject.loss(ranks), [*ranks[:index], 4, *ranks[index + 1 :]]
    module.left_RO = module.left_RO.clone()
    module.left_RO[3] *= EPSILON
    assert slope == pytest.approx((subject.loss(more) - before) / EPSILON, rel=0.05, abs=1e-3)


def test_a_wider_window_sums_its_components(make_subject: Callable[[str], Subject]) -> None:
    subject = make_subject("choice")
    ranks = [4] * len(subject.matrices)
    index = subject.index("0.self_attn.v_proj")
    slopes = subject.measure_slopes(ranks, window=2)
    expected = sum(subject.slope(ranks, index, component) for component in (2, 3))
    assert slopes.kept[:, index].sum() == pytest.approx(expected, rel=0.02, abs=1e-4)


def test_dense_matrices_are_watched_at_their_last_components_and_those_gone_not_at_all(
    make_subject: Callable[[str], Subject],
) -> None:
    subject = make_subject("choice")
    ranks = [DENSE] * len(subject.matrices)
    gone, dense = subject.index("1.self_attn.o_proj"), subject.index("0.mlp.down_proj")
    ranks[gone] = 0
    slopes = subject.measure_slopes(ranks, window=2)
    stored = len(switchable_module(subject.switchable.model, subject.matrices[dense].name).left_RO)
    assert (slopes.start[dense], slopes.rank[dense], slopes.stop[dense]) == (stored - 2, stored, stored)
    assert not slopes.cut[:, dense].any()
    for index in (gone, subject.index("1.self_attn.q_proj")):  # its sublayer is skipped
        assert slopes.start[index] == slopes.rank[index] == slopes.stop[index] == 0
        assert not slopes.kept[:, index].any()
        assert not slopes.cut[:, index].any()


@pytest.mark.parametrize("kind", ["choice", "generate", "lm"])
def test_an_example_reacts_in_a_batch_as_it_does_alone(
    make_subject: Callable[[str], Subject], kind: str
) -> None:
    subject = make_subject(kind)
    ranks = [3] * len(subject.matrices)
    whole = subject.measure_slopes(ranks, window=2, batch_tokens=4096)
    parts = []
    for example in subject.task.splits["calibration"]:
        subject.examples = (example,)
        parts.append(subject.measure_slopes(ranks, window=2))
    alone = join_slopes(parts)
    assert whole.kept[:, 0].std() > 1e-4  # they differ
    np.testing.assert_allclose(alone.kept, whole.kept, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(alone.cut, whole.cut, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(alone.rank, whole.rank)
    np.testing.assert_allclose(alone.quality, whole.quality, rtol=1e-4)
    np.testing.assert_allclose(alone.dense_quality, whole.dense_quality, rtol=1e-4)


@pytest.mark.parametrize("kind", ["choice", "lm"])
def test_slopes_tell_what_both_models_score(make_subject: Callable[[str], Subject], kind: str) -> None:
    subject, known = make_subject(kind), list[torch.Tensor]()
    ranks, dense = [1] * len(subject.matrices), (DENSE,) * len(subject.matrices)
    expected, expected_dense = subject.quality(ranks), subject.quality(dense)
    assert (expected != expected_dense).any()
    for _ in range(2):  # what is known of the dense model is enough
        slopes = subject.measure_slopes(ranks, known=known)
        np.testing.assert_allclose(slopes.quality, expected, rtol=1e-4)
        np.testing.assert_allclose(slopes.dense_quality, expected_dense, rtol=1e-4)


def test_what_would_have_to_be_written_is_not_scored(make_subject: Callable[[str], Subject]) -> None:
    subject = make_subject("generate")
    slopes = subject.measure_slopes([3] * len(subject.matrices))
    assert np.isnan(slopes.quality).all()
    assert np.isnan(slopes.dense_quality).all()


def test_a_module_may_see_the_rows_behind_one_another(make_subject: Callable[[str], Subject]) -> None:
    subject = make_subject("choice")
    ranks, index = [3] * len(subject.matrices), subject.index("0.mlp.down_proj")
    expected = subject.measure_slopes(ranks)
    mlp: Any = subject.switchable.model.model.layers[0].mlp
    forward = mlp.forward
    mlp.forward = lambda x_BLD: forward(x_BLD.flatten(0, 1)).unflatten(0, x_BLD.shape[:2])
    slopes = subject.measure_slopes(ranks)
    np.testing.assert_allclose(slopes.kept[:, index], expected.kept[:, index], rtol=1e-3, atol=1e-6)


def test_experts_react_to_the_tokens_that_are_sent_to_them(mixture: Subject) -> None:
    ranks = [3] * len(mixture.matrices)
    whole = mixture.measure_slopes(ranks, batch_tokens=4096)
    for name in (
        "1.mlp.experts.0.down",
        "1.mlp.experts.3.gate_up",
    ):  # no router behind them sends tokens elsewhere
        index = mixture.index(name)
        expected = mixture.slope(ranks, index, 2)
        assert whole.kept[:, index].sum() == pytest.approx(expected, rel=0.02, abs=1e-4)
    examples, parts = mixture.examples, []
    for example in examples:
        mixture.examples = (example,)
        parts.append(mixture.measure_slopes(ranks))
    np.testing.assert_allclose(join_slopes(parts).kept, whole.kept, rtol=1e-3, atol=1e-5)
    assert whole.kept[:, mixture.index("1.mlp.experts.0.down")].std() > 1e-4


def test_rows_share_what_a_module_makes_of_a_choice_of_tokens(
    make_subject: Callable[[str], Subject],
) -> None:
    subject = make_subject("choice")
    ranks, index = [3] * len(subject.matrices), subject.index("0.mlp.down_proj")
    mlp: Any = subject.switchable.model.model.layers[0].mlp
    forward = mlp.forward

    def without_the_first(x_BLD: torch.Tensor) -> Any:
        rest = forward(x_BLD[:, 1:].flatten(0, 1)).unflatten(0, (len(x_BLD), -1))
        return torch.cat([torch.zeros_like(x_BLD[:, :1]), rest], dim=1)

    mlp.forward = without_the_first
    kept = subject.measure_slopes(ranks, batch_tokens=4096).kept[:, index]  # all in one batch
    assert kept[0] != 0
    np.testing.assert_allclose(kept / _rows(subject), kept[0] / _rows(subject)[0], rtol=1e-3)


def _rows(subject: Subject) -> np.ndarray:
    return np.array([len(example.rows) for example in subject.examples])


def test_the_dense_model_is_asked_for_its_choices_once(
    make_subject: Callable[[str], Subject], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, known = make_subject("choice"), list[torch.Tensor]()
    ranks = [3] * len(subject.matrices)
    expected = subject.measure_slopes(ranks, known=known)

    def refuse(*_: object) -> torch.Tensor:
        raise AssertionError("asked again")

    monkeypatch.setattr("ranksieve.workers.scoring.slopes.dense_logits", refuse)
    again = subject.measure_slopes(ranks, known=known)
    np.testing.assert_array_equal(again.kept, expected.kept)
    np.testing.assert_array_equal(again.cut, expected.cut)


def test_what_is_as_long_as_the_vocabulary_is_not_kept(make_subject: Callable[[str], Subject]) -> None:
    subject, known = make_subject("lm"), list[torch.Tensor]()
    subject.measure_slopes([3] * len(subject.matrices), known=known)
    assert known == []


def test_no_hook_and_no_gradient_is_left(make_subject: Callable[[str], Subject]) -> None:
    subject = make_subject("choice")
    subject.measure_slopes([3] * len(subject.matrices))
    model: Any = subject.switchable.model
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_loss_that_is_not_finite_is_the_candidates_fault(make_subject: Callable[[str], Subject]) -> None:
    subject = make_subject("choice")
    name = subject.matrices[subject.index("1.mlp.down_proj")].name
    module = switchable_module(subject.switchable.model, name)
    module.left_RO = torch.full_like(module.left_RO, torch.nan)
    with pytest.raises(ScoringError, match="not finite"):
        subject.measure_slopes([3] * len(subject.matrices))


def test_slopes_that_are_not_finite_are_the_candidates_fault(make_subject: Callable[[str], Subject]) -> None:
    subject = make_subject("choice")
    module = switchable_module(
        subject.switchable.model, subject.matrices[subject.index("1.mlp.down_proj")].name
    )

    def overflow(_: Any, __: Any, y: torch.Tensor) -> None:
        if y.requires_grad:
            y.register_hook(lambda grad: grad * torch.inf)

    module.register_forward_hook(overflow)
    with pytest.raises(ScoringError, match="slopes are not finite"):
        subject.measure_slopes([3] * len(subject.matrices))


def test_slopes_of_float16_do_not_vanish(
    make_llama: Callable[..., LlamaForCausalLM],
    make_switchable: Callable[..., tuple[SwitchableModel, tuple[MatrixShape, ...]]],
    choice_example: Callable[..., Example],
    make_task: Callable[..., EncodedTask],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Of a model that is sure of its answers, in a residual stream so large that gradients are small."""
    slopes = []
    for dtype in (torch.float32, torch.float16):
        model: Any = make_llama()
        written = [
            matrix for block in model.model.layers for matrix in (block.self_attn.o_proj, block.mlp.down_proj)
        ]
        for module in (model.model.embed_tokens, *written):
            module.weight.data *= 200
        model.lm_head.bias = torch.nn.Parameter(16.0 * torch.eye(model.config.vocab_size)[5])
        subject = Subject(*make_switchable(model.to(dtype)), make_task("choice"), tokenizer)
        subject.examples = tuple(choice_example((4, word, 6), ((5,), (6,))) for word in range(5, 20))
        slopes.append(subject.measure_slopes([3] * len(subject.matrices)).kept)
    exact_EM, found_EM = slopes
    assert np.linalg.norm(found_EM - exact_EM) < 0.1 * np.linalg.norm(exact_EM)
