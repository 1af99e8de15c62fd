"""Check that a model gives the same answers when it reads prompts once.

Legend: B prompts of a batch, N answer tokens, V vocabulary, T tokens so far.
"""

import logging
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from ranksieve.workers.forward.batches import make_batches
from ranksieve.workers.forward.generation import answers, by_prompt
from ranksieve.workers.forward.likelihood import answer_logits
from ranksieve.workers.forward.prompts import Prompts
from ranksieve.workers.machine.devices import accelerator_fault, lack_of_memory
from ranksieve.workers.types.plan import EncodedTask, Example

logger = logging.getLogger(__name__)

PROBED, PROBED_TOKENS = 64, 4
"""Examples that three probes are chosen from, and tokens that each writes."""

ROUNDING = 0.1
"""Most that logits may differ, relative to their spread; in bfloat16 they do by a hundredth or two."""


@torch.inference_mode()
def continues_prompts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: EncodedTask, batch_tokens: int
) -> bool:
    """Return whether a model's logits agree with prompts read once; try examples.

    They do not for models that keep a state, which padding changes, and for some that cannot continue a cache with
    several tokens, or write from an earlier one.

    Args:
        model: The dense one.
        tokenizer: Its tokenizer.
        task: Task of the tried examples.
        batch_tokens: Padded tokens of a batch.
    """
    examples = _probes(next(iter(task.splits.values())))
    choices = max(example.choices for example in examples)
    whole = [
        (batch.slot_N, answer_logits(model, batch.to(model.device)))
        for batch in make_batches(examples, choices, batch_tokens)
    ]
    new_tokens = min(task.max_new_tokens, PROBED_TOKENS) if task.kind == "generate" else 0
    try:
        if not _keeps_keys_and_values(model, tokenizer, examples):
            return False
        parts = list(answers(model, tokenizer, examples, choices, batch_tokens, new_tokens=new_tokens))
    except Exception as error:  # a model's own code may raise anything on a cache that it does not expect
        if lack_of_memory(error) or accelerator_fault(error):
            raise
        logger.info("prompts are read with every answer, since continuing one raised %r", error)
        return False
    once = [(part.slot_N, part.logits_NV) for part in parts]
    apart = [_apart(once, whole)]
    if new_tokens:
        for group in by_prompt(examples, batch_tokens, new_tokens):
            apart += _writing_apart(model, tokenizer, [examples[i] for i in group], new_tokens)
    if not all(difference <= ROUNDING for difference in apart):  # `max` may ignore a NaN
        logger.info(
            "prompts are read with every answer, since continuing one changes the logits by %s", apart
        )
        return False
    return True


def _probes(examples: Sequence[Example]) -> list[Example]:
    """Choose a short, a medium and a long prompt of the first ones."""
    ordered = sorted(examples[:PROBED], key=lambda example: len(example.prompt_ids))
    return [ordered[0], ordered[len(ordered) // 2], ordered[-1]]


def _keeps_keys_and_values(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> bool:
    """Return whether what a model keeps of a prompt has a place for each token.

    A state has none: it is changed by padding, often too little for the logits of a few short prompts to show.
    """
    prompts = Prompts(model, tokenizer, examples)
    cache = prompts.read()
    if max(prompts.lengths) == 1:
        return True
    layers = getattr(cache, "layers", ())
    return cache is not None and not any(
        isinstance(layer, LinearAttentionCacheLayerMixin) for layer in layers
    )


def _writing_apart(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], new_tokens: int
) -> list[float]:
    """Measure how far logits of writing differ between batched and single prompts.

    One number for each example.

    The tokens themselves are no test: rounding decides between two that are equally likely. While the tokens agree, the
    logits of the next one must agree, too.
    """
    together = Prompts(model, tokenizer, examples)
    token_BT, logits_BTV = together.steps(together.read(), new_tokens)
    apart = []
    for b, example in enumerate(examples):
        token_T, logits_TV = (
            both[0] for both in Prompts(model, tokenizer, [example]).steps(None, new_tokens)
        )
        steps = min(len(token_T), token_BT.shape[1])
        differs_T = token_T[:steps] != token_BT[b, :steps]
        same = int(differs_T.int().argmax()) + 1 if differs_T.any() else steps
        apart.append(_difference(logits_BTV[b, :same], logits_TV[:same]))
    return apart


def _apart(*two: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Measure how far the logits of equal answers differ, relative to their spread.

    Both come with their slots.
    """
    return _difference(*(logits_NV[slot_N.argsort(stable=True)] for slot_N, logits_NV in map(_joined, two)))


def _difference(first_NV: torch.Tensor, second_NV: torch.Tensor) -> float:
    varying_NV = second_NV - second_NV.mean(dim=1, keepdim=True)
    return float((first_NV - second_NV).norm() / varying_NV.norm())


def _joined(parts: Sequence[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    return tuple(map(torch.cat, zip(*parts, strict=True)))
