from collections.abc import Callable

import pytest
import torch
from transformers import GPT2LMHeadModel, LlamaForCausalLM

from ranksieve.workers.cost.workload import Workload, forward_pass, typical_batch
from ranksieve.workers.forward.batches import make_batches
from ranksieve.workers.types.plan import EncodedTask


def test_a_workload_as_the_matrices_and_the_context_see_it() -> None:
    prefill = Workload(kind="prefill", rows=3, length=7)
    decode = Workload(kind="decode", rows=3, length=7)
    assert (prefill.shape_BL, prefill.context) == ((3, 7), 7)
    assert (decode.shape_BL, decode.context) == ((3, 1), 8)


def test_the_typical_batch_is_the_median_one(make_task: Callable[..., EncodedTask]) -> None:
    task = make_task("choice")
    shapes = [tuple(batch.ids_BL.shape) for batch in make_batches(task.splits["search"], 3, 64)]
    rows, length = typical_batch(task, "search", 64)
    assert (rows, length) in shapes
    larger = sum(one[0] * one[1] > rows * length for one in shapes)
    smaller = sum(one[0] * one[1] < rows * length for one in shapes)
    assert larger <= len(shapes) / 2
    assert smaller <= len(shapes) / 2


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_both_workloads_run_and_make_the_logits_of_one_token_a_row(
    kind: str, make_llama: Callable[..., LlamaForCausalLM], make_gpt2: Callable[[], GPT2LMHeadModel]
) -> None:
    model = make_llama() if kind == "llama" else make_gpt2()
    reading = forward_pass(model, Workload(kind="prefill", rows=3, length=7))
    assert reading.run().shape == (3, 48)
    writing = forward_pass(model, Workload(kind="decode", rows=3, length=7))
    texts, lengths = [], []
    model.register_forward_hook(lambda _, __, out: lengths.append(out.cache.get_seq_length()))
    for _ in range(3):  # each from the same cache
        writing.prepare()
        texts.append(writing.run())
        assert lengths[-1] == 8
    assert texts[0].shape == (3, 48)
    assert torch.equal(texts[0], texts[2])
