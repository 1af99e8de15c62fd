from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from ranksieve.search.errors import ScoringError
from ranksieve.workers.factors.tuning import Tuning, keep_first, tune
from ranksieve.workers.forward.batches import make_batches
from ranksieve.workers.forward.likelihood import answer_logits, choice_scores, right_choices
from ranksieve.workers.model.matrices import block_list
from ranksieve.workers.types.plan import EncodedTask

IDS = torch.tensor([[3, 5, 8, 13, 21]])


def loss_of(model: PreTrainedModel, task: EncodedTask) -> float:
    examples = task.splits["calibration"]
    choices = max(example.choices for example in examples)
    with torch.no_grad():
        (batch,) = make_batches(examples, choices, 10_000)
        scores_SC, offered_SC = choice_scores(answer_logits(model, batch), examples, batch, choices)
        labels = right_choices(examples, batch, torch.device("cpu"))
        return float(F.cross_entropy(scores_SC.masked_fill(~offered_SC, -torch.inf), labels))


def make_qwen3() -> Qwen3ForCausalLM:
    """A model whose configuration has a list with an entry for each block."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=48, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, pad_token_id=None,
        use_sliding_window=True, sliding_window=2, max_window_layers=2,
    )  # fmt: skip
    return Qwen3ForCausalLM(config).eval()


@pytest.mark.parametrize("blocks", [1, 3, 4])
def test_the_first_blocks_stay(make_llama: Callable[..., LlamaForCausalLM], blocks: int) -> None:
    model = make_llama(num_hidden_layers=4)
    first = model.model.layers[0]
    keep_first(model, blocks)
    assert len(block_list(model)[1]) == model.config.num_hidden_layers == blocks
    assert model.model.layers[0] is first


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3"])
@torch.no_grad()
def test_a_cut_model_is_the_same_when_it_is_loaded_again(
    architecture: str,
    make_llama: Callable[..., LlamaForCausalLM],
    make_gpt2: Callable[[], GPT2LMHeadModel],
    tmp_path: Path,
) -> None:
    makes: dict[str, Callable[[], PreTrainedModel]] = {
        "llama": make_llama,
        "gpt2": make_gpt2,
        "qwen3": make_qwen3,
    }
    model = makes[architecture]()
    whole = model(IDS).logits
    keep_first(model, 1)
    assert not torch.allclose(model(IDS).logits, whole)
    model.save_pretrained(tmp_path)
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize("narrow", [False, True])
def test_tuning_learns_the_right_answers_and_leaves_the_embeddings(
    make_llama: Callable[..., LlamaForCausalLM], make_task: Callable[..., EncodedTask], narrow: bool
) -> None:
    model, task = make_llama(), make_task("choice")
    before, embedding = loss_of(model, task), model.get_input_embeddings().weight.clone()
    settings = Tuning(epochs=10, learning_rate=3e-4)
    steps = list(tune(model, "choice", task.splits["calibration"], settings, 64, seed=0, narrow=narrow))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert steps == [(step + 1, 10) for step in range(10)]  # 12 examples are one step
    assert loss_of(model, task) < before / 2
    assert torch.equal(model.get_input_embeddings().weight, embedding)
    assert not any(parameter.requires_grad for parameter in model.parameters())


@torch.no_grad()
def mean_unlikelihood(model: PreTrainedModel, task: EncodedTask) -> float:
    """Negative log-likelihood of the answers' tokens; every answer counts the same."""
    examples = task.splits["calibration"]
    (batch,) = make_batches(examples, 1, 10_000)
    nll_N = F.cross_entropy(answer_logits(model, batch), batch.token_N, reduction="none")
    return float(
        torch.stack([nll_N[batch.slot_N == example].mean() for example in range(len(examples))]).mean()
    )


def test_tuning_makes_written_answers_likelier_whatever_their_length(
    make_llama: Callable[..., LlamaForCausalLM], make_task: Callable[..., EncodedTask]
) -> None:
    model, task = make_llama(), make_task("generate")
    examples = task.splits["calibration"]
    assert len({example.answer_tokens for example in examples}) > 1
    before, embedding = mean_unlikelihood(model, task), model.get_input_embeddings().weight.clone()
    steps = list(
        tune(model, "generate", examples, Tuning(epochs=10, learning_rate=3e-4), 64, seed=0, narrow=False)
    )
    assert steps == [(step + 1, 10) for step in range(10)]  # 12 examples are one step
    assert mean_unlikelihood(model, task) < before / 2
    assert torch.equal(model.get_input_embeddings().weight, embedding)


def test_tuning_depends_on_its_seed_alone(
    make_llama: Callable[..., LlamaForCausalLM], make_task: Callable[..., EncodedTask]
) -> None:
    task = make_task("choice")
    examples = 2 * task.splits["calibration"]  # two steps an epoch

    def tuned(seed: int) -> torch.Tensor:
        model = make_llama()
        for _ in tune(model, "choice", examples, Tuning(epochs=3), 64, seed, narrow=False):
            pass
        return model.model.layers[1].mlp.down_proj.weight

    assert torch.equal(tuned(0), tuned(0))
    assert not torch.equal(tuned(0), tuned(1))


def test_a_loss_that_is_not_finite_ends_the_tuning(
    make_llama: Callable[..., LlamaForCausalLM], make_task: Callable[..., EncodedTask]
) -> None:
    model = make_llama()
    model.model.norm.weight.data.fill_(torch.inf)
    with pytest.raises(ScoringError, match=r"tuning: the loss is not finite in step 0; effort quick"):
        list(
            tune(
                model,
                "choice",
                make_task("choice").splits["calibration"],
                Tuning(epochs=1),
                64,
                seed=0,
                narrow=False,
            )
        )
