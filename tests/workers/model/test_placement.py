"""A model over several devices. Without GPUs these are the processor under two names, and one that has no data."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from ranksieve.search.space.matrix import DENSE
from ranksieve.workers.cluster.actor import ScorerPlan, build_scorer
from ranksieve.workers.export.reader import load_folder
from ranksieve.workers.export.writer import Exported, ExportPlan, export
from ranksieve.workers.factors.preparation import prepare
from ranksieve.workers.factors.prepared import PreparationPlan, Prepared
from ranksieve.workers.factors.training import Training
from ranksieve.workers.model import loading, placement
from ranksieve.workers.model.matrices import block_list
from ranksieve.workers.model.placement import place
from ranksieve.workers.types.plan import EncodedTask
from ranksieve.workers.types.scores import (
    Beliefs,
    ScoreRequest,
    Scores,
)

IDS_BL = torch.tensor([[4, 9, 30, 12, 7], [20, 3, 5, 41, 17]])
TWO = [torch.device("cpu", 0), torch.device("cpu", 1)]
NOWHERE = torch.device("meta")
"""Computes shapes alone, and refuses to compute with what lies elsewhere."""

Sent = list[torch.device]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Where values were brought to, in order."""
    devices: Sent = []
    real = placement.send_to_device

    def send(values: Any, device: torch.device) -> Any:
        devices.append(device)
        return real(values, device)

    monkeypatch.setattr(placement, "send_to_device", send)
    return devices


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@torch.inference_mode()
def test_blocks_take_turns_on_their_devices(
    kind: str,
    make_llama: Callable[..., PreTrainedModel],
    make_gpt2: Callable[[], PreTrainedModel],
    sent: Sent,
) -> None:
    model = make_llama(num_hidden_layers=4) if kind == "llama" else make_gpt2()
    model.eval()
    alone = model(input_ids=IDS_BL).logits
    placed = place(model, TWO)
    assert torch.equal(placed(input_ids=IDS_BL).logits, alone)
    *blocks, last = sent
    assert last == TWO[0]
    assert blocks == sorted(blocks, key=TWO.index)
    assert set(blocks) == set(TWO)


@torch.inference_mode()
def test_whatever_a_block_computes_with_lies_on_its_device(
    make_llama: Callable[..., PreTrainedModel],
) -> None:
    model = place(make_llama(num_hidden_layers=4).eval(), [torch.device("cpu"), NOWHERE])
    _, blocks = block_list(model)
    found = [{parameter.device for parameter in block.parameters()} for block in blocks]
    here, there = {torch.device("cpu")}, {NOWHERE}
    assert found == [here] * found.count(here) + [there] * found.count(there)
    assert 0 < found.count(there) < len(found)
    inside = {id(parameter) for block in blocks for parameter in block.parameters()}
    assert {p.device for p in model.parameters() if id(p) not in inside} == here
    assert model.device == torch.device("cpu")
    written: list[torch.device] = []
    blocks[-1].mlp.register_forward_hook(lambda _, __, output: written.append(output.device))
    with pytest.raises(NotImplementedError, match="copy out of meta"):  # on the way back to the first device
        model(input_ids=IDS_BL, attention_mask=torch.ones_like(IDS_BL))
    assert written == [NOWHERE]


@pytest.mark.parametrize(("inner", "vocabulary", "first"), [(100, 8, 2), (100, 400, 1), (100, 100_000, 0)])
def test_the_first_device_holds_fewer_blocks_the_larger_what_is_outside_them(
    inner: int, vocabulary: int, first: int, make_llama: Callable[..., PreTrainedModel]
) -> None:
    model = make_llama(num_hidden_layers=4, intermediate_size=inner, vocab_size=vocabulary)
    _, blocks = block_list(place(model, [torch.device("cpu"), NOWHERE]))
    assert [next(block.parameters()).device != NOWHERE for block in blocks] == [True] * first + [False] * (
        4 - first
    )


def test_a_tied_head_stays_tied(make_llama: Callable[..., PreTrainedModel]) -> None:
    model = place(make_llama(tie_word_embeddings=True), TWO)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("kind", ["choice", "generate"])
def test_a_job_finds_the_same_on_two_devices(
    kind: str,
    preparation_plan: PreparationPlan,
    make_task: Callable[..., EncodedTask],
    make_scorer_plan: Callable[[Prepared], ScorerPlan],
    sent: Sent,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task = make_task(kind)

    def run(name: str) -> tuple[Prepared, Scores, Beliefs, Scores]:
        plan = replace(
            preparation_plan,
            task=task,
            cache_dir=tmp_path / name,
            midway_share=0.5,
            training=Training(epochs=1),
        )
        *_, ready = prepare(plan)
        assert isinstance(ready, Prepared)
        scorer = build_scorer(make_scorer_plan(ready), task)
        ranks = (4,) * len(ready.matrices)
        dense, beliefs = scorer.score_dense(
            ScoreRequest(ranks=(DENSE,) * len(ranks), split="search", start=0, stop=8)
        )
        scorer.set_beliefs({"search": beliefs})
        scores = scorer.score(ScoreRequest(ranks=ranks, split="search", start=0, stop=8))
        assert isinstance(scores, Scores)
        return ready, dense, beliefs, scores

    alone = run("alone")
    assert not sent
    monkeypatch.setattr(loading, "given", lambda device: TWO)
    together = run("together")
    assert set(sent) == set(TWO)
    np.testing.assert_equal(
        [energy.tolist() for energy in together[0].energies],
        [energy.tolist() for energy in alone[0].energies],
    )
    for one, other in zip(together[1:], alone[1:], strict=True):
        np.testing.assert_equal(*(asdict(each) | {"seconds": None} for each in (one, other)))


@torch.inference_mode()
def test_an_exported_model_is_spread_too(export_plan: ExportPlan, sent: Sent) -> None:
    *_, exported = export(export_plan)
    assert isinstance(exported, Exported)
    model = load_folder(exported.folder)
    alone = model._apply(torch.clone)(
        input_ids=IDS_BL
    ).logits  # as spread ones: where weights lie may tell in the last bit
    assert torch.equal(place(model, TWO)(input_ids=IDS_BL).logits, alone)
    assert set(sent) == set(TWO)
