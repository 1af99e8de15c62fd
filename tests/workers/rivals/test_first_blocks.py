from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GPT2LMHeadModel, LlamaForCausalLM, PreTrainedModel

from ranksieve.workers.factors.tuning import keep_first
from ranksieve.workers.rivals import first_blocks as module
from ranksieve.workers.rivals.dense import dense
from ranksieve.workers.rivals.first_blocks import depths, first_blocks
from ranksieve.workers.rivals.rival import Setup, whole


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEARNING_RATES", (1e-2 / 18,))  # of a width of 32 against 576


def test_a_cut_model_ends_behind_its_last_block(make_llama: Callable[..., LlamaForCausalLM]) -> None:
    model, ids = make_llama(num_hidden_layers=3), torch.tensor([[5, 9, 11]])
    behind_second = model(input_ids=ids, output_hidden_states=True).hidden_states[2]
    expected = model.lm_head(model.model.norm(behind_second))
    keep_first(model, 2)
    assert torch.equal(model(input_ids=ids).logits, expected)


def test_a_cut_model_can_be_saved_and_written_with(
    make_gpt2: Callable[[], GPT2LMHeadModel], tmp_path: object
) -> None:
    model, ids = make_gpt2(), torch.tensor([[5, 9, 11]])
    keep_first(model, 1)
    model.save_pretrained(tmp_path)
    loaded: PreTrainedModel = GPT2LMHeadModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)
    assert loaded.generate(ids, max_new_tokens=2, do_sample=False).shape == (1, 5)


def test_depths_are_different_and_at_least_one(make_llama: Callable[..., LlamaForCausalLM]) -> None:
    model = make_llama(num_hidden_layers=6)
    assert depths(model, (0.01, 1 / 6, 1 / 2, 1.0)) == [1, 3, 6]


def test_tuning_beats_the_dense_model_on_its_task(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARES", (0.5,))
    (tuned,), (bare, _) = first_blocks(setup), dense(setup)
    assert tuned.name == "first 1 of 2 blocks, tuned"
    assert tuned.settings == {"blocks": 1, "learning_rate": pytest.approx(1e-2)}
    assert tuned.size_bytes < 0.8 * bare.size_bytes
    after, before = (one.score(whole(setup, "test")).nll_nats.mean() for one in (tuned, bare))
    assert after < 0.95 * before


def test_embeddings_and_head_are_not_tuned(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    models = []
    tune = module.tune

    def keep(setup: Setup, model: PreTrainedModel, parameters: Any, rate: float) -> None:
        tune(setup, model, parameters, rate)
        models.append(model)

    monkeypatch.setattr(module, "tune", keep)
    monkeypatch.setattr(module, "SHARES", (0.5,))
    list(first_blocks(setup))
    dense_state, (model,) = setup.load().state_dict(), models
    same = {name for name, value in model.state_dict().items() if torch.equal(value, dense_state[name])}
    assert same == {"model.embed_tokens.weight", "lm_head.weight"}


def test_the_same_seed_gives_the_same_model(setup: Setup) -> None:
    first, second = (
        [one.score(whole(setup, "test")).nll_nats.tolist() for one in first_blocks(setup)] for _ in range(2)
    )
    assert first == second
