from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

import ranksieve.workers.scoring.scorer
from ranksieve.search.errors import ScoringError
from ranksieve.search.space.matrix import DENSE
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.scoring.scorer import Scorer
from ranksieve.workers.types.plan import EncodedTask, Example
from ranksieve.workers.types.scores import Beliefs, Failure, ScoreRequest, Scores

MATRICES = 14
WHOLE = 16


@pytest.fixture
def make_scorer(
    make_llama: Callable[..., PreTrainedModel],
    make_switchable: Callable[..., Any],
    make_task: Callable[..., EncodedTask],
    tokenizer: PreTrainedTokenizerFast,
) -> Callable[..., tuple[Scorer, PreTrainedModel, tuple[Example, ...]]]:
    def make(
        kind: str, budget: int = 60, **options: Any
    ) -> tuple[Scorer, PreTrainedModel, tuple[Example, ...]]:
        task, model = make_task(kind), make_llama(**options)
        switchable, _ = make_switchable(model)
        return Scorer(switchable, tokenizer, task, budget), model, task.splits["search"]

    return make


def request(rank: int = DENSE, start: int = 0, stop: int = WHOLE) -> ScoreRequest:
    return ScoreRequest(ranks=(rank,) * MATRICES, split="search", start=start, stop=stop)


def scored(scorer: Scorer, *arguments: Any) -> Scores:
    scores = scorer.score(request(*arguments))
    assert isinstance(scores, Scores)
    return scores


def answer_logp(model: PreTrainedModel, prompt: tuple[int, ...], answer: tuple[int, ...]) -> torch.Tensor:
    """Log-probabilities at the positions that predict an answer, by itself: L×V, float64."""
    logits_LV = model(input_ids=torch.tensor([prompt + answer])).logits[0]
    return logits_LV[len(prompt) - 1 : -1].double().log_softmax(dim=1)


@torch.inference_mode()
def naive_beliefs(model: PreTrainedModel, examples: tuple[Example, ...]) -> list[torch.Tensor]:
    """Log-probability of every choice of every example."""
    beliefs = []
    for example in examples:
        answers = {span.choice: span.ids for row in example.rows for span in row.spans}
        sums = []
        for choice in range(example.choices):
            logp_LV = answer_logp(model, example.prompt_ids, answers[choice])
            sums.append(logp_LV[range(len(answers[choice])), list(answers[choice])].sum())
        beliefs.append(torch.stack(sums).log_softmax(0))
    return beliefs


@pytest.mark.parametrize("rank", [DENSE, 8])
def test_choice_equals_a_naive_computation(make_scorer: Callable[..., Any], rank: int) -> None:
    scorer, model, examples = make_scorer("choice")
    scores = scored(scorer, rank)
    beliefs = naive_beliefs(model, examples)  # the model still runs at these ranks
    right = [float(int(belief.argmax()) == e.label) for belief, e in zip(beliefs, examples, strict=True)]
    nll = [-float(belief[e.label]) for belief, e in zip(beliefs, examples, strict=True)]
    assert 0 < sum(right) < WHOLE
    assert scores.quality.tolist() == scores.exact.tolist() == right
    np.testing.assert_allclose(scores.nll_nats, nll, rtol=1e-4, atol=1e-4)
    assert scores.answer_tokens.tolist() == [1] * WHOLE
    assert scores.tokens == sum(len(row.ids) for e in examples for row in e.rows)
    assert scores.seconds > 0


def test_equally_likely_choices_share_the_credit(
    make_scorer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, _, examples = make_scorer("choice")
    monkeypatch.setattr(
        ranksieve.workers.scoring.scorer, "slot_log_likelihoods", lambda *of: torch.zeros(of[2], of[3])
    )
    assert scored(scorer, DENSE).quality.tolist() == [1 / example.choices for example in examples]


def test_choice_kl_is_that_of_the_beliefs(make_scorer: Callable[..., Any]) -> None:
    scorer, model, examples = make_scorer("choice")
    _, dense = scorer.score_dense(request())
    scorer.set_beliefs({"search": dense})
    p = naive_beliefs(model, examples)
    scores = scored(scorer, 4)
    q = naive_beliefs(model, examples)
    expected = [float((a.exp() * (a - b)).sum()) for a, b in zip(p, q, strict=True)]
    assert max(expected) > 1
    np.testing.assert_allclose(scores.kl_nats, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["choice", "lm"])
def test_kl_of_dense_against_itself_is_zero(make_scorer: Callable[..., Any], kind: str) -> None:
    scorer, _, _ = make_scorer(kind)
    scores, beliefs = scorer.score_dense(request())
    assert not scores.kl_nats.any()
    scorer.set_beliefs({"search": beliefs})
    np.testing.assert_allclose(scored(scorer).kl_nats, 0, atol=1e-7)
    assert (scored(scorer, 4, 2, 9).kl_nats > 1e-6).all()


@torch.inference_mode()
def test_lm_equals_a_naive_computation(make_scorer: Callable[..., Any]) -> None:
    scorer, model, examples = make_scorer("lm")
    scores = scored(scorer)
    answers = [example.rows[0].spans[0].ids for example in examples]
    nll = [
        -float(answer_logp(model, e.prompt_ids, answer)[range(len(answer)), list(answer)].sum())
        for e, answer in zip(examples, answers, strict=True)
    ]
    np.testing.assert_allclose(scores.nll_nats, nll, rtol=1e-4)
    np.testing.assert_allclose(scores.quality, -scores.nll_nats)
    assert scores.answer_tokens.tolist() == [len(answer) for answer in answers]
    assert not scores.exact.any()


@pytest.mark.parametrize("vocabulary", [48, 100])
@torch.inference_mode()
def test_lm_kl_is_exact_on_the_top_tokens_and_the_rest(
    make_scorer: Callable[..., Any], vocabulary: int
) -> None:
    scorer, model, examples = make_scorer("lm", vocab_size=vocabulary)
    _, beliefs = scorer.score_dense(request())
    assert beliefs.logp_AK.shape == (sum(len(e.rows[0].spans[0].ids) for e in examples), min(vocabulary, 64))
    scorer.set_beliefs({"search": beliefs})
    dense = [answer_logp(model, e.prompt_ids, e.rows[0].spans[0].ids).exp() for e in examples]
    scores = scored(scorer, 8)
    for example, p_LV, kl_nats in zip(examples, dense, scores.kl_nats, strict=True):
        q_LV = answer_logp(model, example.prompt_ids, example.rows[0].spans[0].ids).exp()
        top = p_LV.topk(min(vocabulary, 64)).indices
        p, q = (
            torch.cat([x.gather(1, top), (1 - x.gather(1, top).sum(1, keepdim=True)).clamp_min(1e-12)], dim=1)
            for x in (p_LV, q_LV)
        )
        assert kl_nats == pytest.approx(float((p * (p / q).log()).sum(1).mean()), rel=1e-3)
        whole = float((p_LV * (p_LV / q_LV).log()).sum(1).mean())
        assert kl_nats <= whole * (1 + 1e-3)


def test_generate_scores_texts_and_beliefs(make_scorer: Callable[..., Any]) -> None:
    scorer, _, _ = make_scorer("generate")
    scores, beliefs = scorer.score_dense(request())
    assert len(beliefs.offset_E) == WHOLE + 1
    assert ((scores.quality >= 0) & (scores.quality <= 1)).all()
    assert set(scores.exact) <= {0.0, 1.0}
    assert (scores.nll_nats > 0).all()
    assert not scores.unwritten


@torch.inference_mode()
def greedy_text(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompt: tuple[int, ...], most: int
) -> str:
    """The likeliest token each time, each from a whole forward pass over one prompt, up to the end of the sequence."""
    ids: list[int] = []
    while len(ids) < most and tokenizer.eos_token_id not in ids:
        ids.append(int(model(input_ids=torch.tensor([[*prompt, *ids]])).logits[0, -1].argmax()))
    return tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("rank", [DENSE, 6])
def test_generated_answers_are_right_where_they_are_the_greedy_ones(
    make_llama: Callable[..., PreTrainedModel],
    make_switchable: Callable[..., Any],
    make_task: Callable[..., EncodedTask],
    tokenizer: PreTrainedTokenizerFast,
    rank: int,
) -> None:
    task, model = make_task("generate"), make_llama()
    switchable, _ = make_switchable(model)
    switchable.switch((rank,) * MATRICES)
    texts = [greedy_text(model, tokenizer, e.prompt_ids, task.max_new_tokens) for e in task.splits["search"]]
    known = tuple(
        replace(example, references=("nothing like it", text) if index % 2 else ("nothing like it",))
        for index, (example, text) in enumerate(zip(task.splits["search"], texts, strict=True))
    )
    task = replace(task, splits={**task.splits, "search": known})
    scores = scored(Scorer(switchable, tokenizer, task, 60), rank)
    assert len(set(texts)) > WHOLE / 2
    assert scores.exact.tolist() == scores.quality.tolist() == [0.0, 1.0] * (WHOLE // 2)
    objects = scored(Scorer(switchable, tokenizer, replace(task, objects=True), 60), rank)
    assert objects.quality.tolist() == objects.exact.tolist() == scores.exact.tolist()


def test_the_loss_of_a_generate_task_wants_no_answers(make_scorer: Callable[..., Any]) -> None:
    scorer, _, _ = make_scorer("generate")
    scorer.set_beliefs({"search": scorer.score_dense(request())[1]})
    whole, loss_only = scored(scorer, 6), scorer.score(replace(request(6), loss_only=True))
    assert loss_only.unwritten
    assert np.isnan(loss_only.exact).all()
    for name in ("nll_nats", "kl_nats", "answer_tokens"):
        assert getattr(loss_only, name).tolist() == getattr(whole, name).tolist()
    assert loss_only.tokens == whole.tokens


@pytest.mark.parametrize("kind", ["choice", "lm"])
@pytest.mark.parametrize("budget", [1, 10_000])
def test_parts_and_budgets_change_nothing(make_scorer: Callable[..., Any], kind: str, budget: int) -> None:
    scorer, _, _ = make_scorer(kind)
    other, _, _ = make_scorer(kind, budget)
    scorer.set_beliefs({"search": scorer.score_dense(request())[1]})
    other.set_beliefs(scorer._beliefs)
    whole = scored(scorer, 6)
    parts = [scored(other, 6, start, start + 4) for start in range(0, WHOLE, 4)]
    for name in ("quality", "nll_nats", "kl_nats", "answer_tokens"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_allclose(joined, getattr(whole, name), rtol=1e-4, atol=1e-5)
    assert sum(part.tokens for part in parts) == whole.tokens


def test_same_request_same_scores(make_scorer: Callable[..., Any]) -> None:
    scorer, _, _ = make_scorer("choice")
    before = scored(scorer, 5)
    scored(scorer, 2)
    after = scored(scorer, 5)
    assert before.nll_nats.tolist() == after.nll_nats.tolist()


@pytest.mark.parametrize("kind", ["choice", "lm", "generate"])
def test_broken_candidate_is_a_failure_and_never_a_score(make_scorer: Callable[..., Any], kind: str) -> None:
    scorer, model, _ = make_scorer(kind)
    model.get_buffer("model.layers.0.mlp.down_proj.left_RO")[1, 0] = torch.nan
    assert scorer.score(request(8)) == Failure(reason="the candidate's logits are not finite")
    assert isinstance(scorer.score(request(1)), Scores)  # the broken component is not used
    model.get_parameter("model.norm.weight")[0] = torch.nan
    with pytest.raises(ScoringError, match=r"the dense model's logits are not finite on [a-z]+; try"):
        scorer.score_dense(request())


def test_no_memory_is_a_failure(
    make_llama: Callable[..., PreTrainedModel],
    make_task: Callable[..., EncodedTask],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    def exhaust(*_: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    def exhaust_numpy(*_: object) -> None:
        np.empty(2**60, dtype=np.uint8)

    def exhaust_cpu(*_: object) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    def break_down(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    def score(hook: Callable[..., None]) -> Scores | Failure:
        model = make_llama()
        model.lm_head.register_forward_hook(hook)
        scorer = Scorer(SwitchableModel(model, (), {}), tokenizer, make_task("lm"), 60)
        return scorer.score(ScoreRequest(ranks=(), split="search", start=0, stop=2))

    assert score(exhaust) == Failure(reason="out of accelerator memory: tried to allocate 2 GiB")
    for hook in (exhaust_cpu, exhaust_numpy):
        failure = score(hook)
        assert isinstance(failure, Failure)
        assert failure.reason.startswith("out of memory: ")
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        score(break_down)


def test_no_kl_without_beliefs_of_the_split(make_scorer: Callable[..., Any]) -> None:
    scorer, _, _ = make_scorer("choice")
    _, beliefs = scorer.score_dense(request())
    assert isinstance(beliefs, Beliefs)
    scorer.set_beliefs({"test": beliefs})
    assert not scored(scorer, 3).kl_nats.any()
