from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from transformers import PreTrainedModel

from ranksieve.workers.forward.batches import make_batches
from ranksieve.workers.forward.likelihood import answer_logits, logits_at, right_share, slot_log_likelihoods
from ranksieve.workers.types.plan import EncodedTask, Example


def naive(model: PreTrainedModel, examples: Sequence[Example], choices: int) -> torch.Tensor:
    """Every answer by itself: no padding, no shared rows, all logits."""
    logp_EC = torch.zeros(len(examples), choices)
    for e, example in enumerate(examples):
        for span in [span for row in example.rows for span in row.spans]:
            whole = torch.tensor([example.prompt_ids + span.ids])
            logp_LV = model(input_ids=whole).logits[0].log_softmax(dim=1)
            start = len(example.prompt_ids)
            for offset, token in enumerate(span.ids):
                logp_EC[e, span.choice] += logp_LV[start + offset - 1, token]
    return logp_EC


@pytest.fixture
def _four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_four_threads")
def test_gradients_of_answers_at_one_place_are_summed_in_one_order(
    make_llama: Callable[..., PreTrainedModel],
) -> None:
    model = make_llama(vocab_size=32_000)  # more numbers than torch sums on one thread
    row_N, position_N = torch.arange(5).repeat_interleave(4), torch.full((20,), 11)
    head = model.get_output_embeddings().weight.requires_grad_()
    ids_BL, weight_NV = torch.randint(100, (5, 12)), torch.randn(20, 32_000)

    def gradient() -> torch.Tensor:
        logits_NV = logits_at(model, row_N, position_N, input_ids=ids_BL)
        (found,) = torch.autograd.grad((logits_NV * weight_NV).sum(), head)
        return found

    first = gradient()
    assert all(torch.equal(gradient(), first) for _ in range(15))


@pytest.mark.parametrize("kind", ["choice", "lm"])
@pytest.mark.parametrize("known", [True, False])
@torch.inference_mode()
def test_batched_equals_one_by_one(
    make_llama: Callable[..., PreTrainedModel],
    make_task: Callable[..., EncodedTask],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    known: bool,
) -> None:
    examples = make_task(kind).splits["search"]
    choices = max(example.choices for example in examples)
    model = make_llama()
    if not known:  # a model that does not tell its head
        monkeypatch.setattr(model, "get_output_embeddings", lambda: None)
    batches = make_batches(examples, choices, batch_tokens=60)
    assert len(batches) > 2
    parts = [
        slot_log_likelihoods(answer_logits(model, batch), batch, len(examples), choices) for batch in batches
    ]
    torch.testing.assert_close(sum(parts), naive(model, examples, choices), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["choice", "lm"])
def test_the_head_reads_each_position_once_and_no_other(
    make_llama: Callable[..., PreTrainedModel], make_task: Callable[..., EncodedTask], kind: str
) -> None:
    examples = make_task(kind).splits["search"]
    model, read = make_llama(), []
    model.lm_head.register_forward_hook(lambda _, inputs, __: read.append(inputs[0].shape[:-1].numel()))
    for batch in make_batches(examples, max(example.choices for example in examples), batch_tokens=60):
        answer_logits(model, batch)
    assert len(read) > 2
    assert sum(read) == sum(row.reads for example in examples for row in example.rows)


def test_logits_are_float32_whatever_the_model(
    make_llama: Callable[..., PreTrainedModel], make_task: Callable[..., EncodedTask]
) -> None:
    (batch, *_) = make_batches(make_task("lm").splits["test"], 1, batch_tokens=256)
    logits_NV = answer_logits(make_llama().bfloat16(), batch)
    assert logits_NV.dtype == torch.float32
    assert logits_NV.shape == (len(batch.token_N), 48)


def test_credit_is_shared_by_those_who_tie() -> None:
    off = -torch.inf
    score_SC = torch.tensor(
        [[-1, -2, -3], [-2, -1, -1], [-2, -1, -1], [-1, -1, -1], [-1, -1, off], [-1, -2, off]]
    )
    label_S = torch.tensor([0, 2, 0, 1, 1, 1])
    assert right_share(score_SC, label_S).tolist() == pytest.approx([1, 0.5, 0, 1 / 3, 0.5, 0])


@pytest.mark.parametrize("bias", [False, True])
@torch.inference_mode()
def test_the_answers_of_a_bfloat16_model_do_not_tie(
    make_llama: Callable[..., PreTrainedModel],
    make_task: Callable[..., EncodedTask],
    monkeypatch: pytest.MonkeyPatch,
    bias: bool,
) -> None:
    """The second answer's row of the head is the first's but for the last bit of one number."""
    model = make_llama().bfloat16()
    examples = make_task("choice").splits["search"]
    (batch,) = make_batches(examples, max(example.choices for example in examples), batch_tokens=10_000)
    first, second = batch.token_N[:2].tolist()
    head = model.get_output_embeddings()
    head.weight[second] = head.weight[first]
    head.weight[second, 0] *= 1 + 2**-7
    if bias:
        head.bias = torch.nn.Parameter(torch.ones(48, dtype=torch.bfloat16), requires_grad=False)

    rounded_NV = logits_at(model, batch.row_N, batch.position_N, input_ids=batch.ids_BL)
    exact_NV = answer_logits(model, batch)
    assert (rounded_NV[:, first] == rounded_NV[:, second]).float().mean() > 0.5
    assert not (exact_NV[:, first] == exact_NV[:, second]).any()
    torch.testing.assert_close(exact_NV, rounded_NV, rtol=2**-8, atol=2**-8)
