import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

import ranksieve.workers.export.verification
from ranksieve.search.errors import ScoringError
from ranksieve.search.space.matrix import DENSE
from ranksieve.workers.cost.timing import MakeTimer
from ranksieve.workers.cost.workload import Workload, WorkloadKind
from ranksieve.workers.export.verification import (
    LATENCY_ROUNDS,
    SPEED_ROUNDS,
    VerificationPlan,
    Verified,
    _speeds,
    verify,
)
from ranksieve.workers.export.writer import ExportPlan, export
from ranksieve.workers.factors.prepared import load_factors
from ranksieve.workers.model.loading import load_prepared
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.scoring.scorer import Scorer
from ranksieve.workers.types.plan import EncodedTask
from ranksieve.workers.types.progress import Progress
from ranksieve.workers.types.scores import Failure, ScoreRequest, Scores

pytestmark = pytest.mark.usefixtures("_own_modules_cache")


@pytest.fixture
def plan(export_plan: ExportPlan) -> VerificationPlan:
    list(export(export_plan))
    return VerificationPlan(
        exported=export_plan.folder,
        dense=export_plan.model_folder,
        split="test",
        examples=10,
        batch_tokens=64,
        threads=1,
        device="cpu",
    )


def searched(plan: ExportPlan, tokenizer: PreTrainedTokenizerFast, task: EncodedTask) -> Scores:
    """Scores of the candidate as the search saw it."""
    model = load_prepared(plan.model_folder, torch.device("cpu"))
    switchable = SwitchableModel(model, plan.matrices, load_factors(plan.factors_folder))
    request = ScoreRequest(ranks=plan.ranks, split="test", start=0, stop=10)
    scores = Scorer(switchable, tokenizer, task, 64).score(request)
    assert isinstance(scores, Scores)
    return scores


@pytest.mark.parametrize("kind", ["choice", "generate", "lm"])
def test_exported_model_scores_as_in_the_search(
    plan: VerificationPlan,
    export_plan: ExportPlan,
    tokenizer: PreTrainedTokenizerFast,
    make_task: Callable[..., EncodedTask],
    kind: str,
) -> None:
    task = make_task(kind)
    *progress, verified = verify(plan, task)
    assert progress == [Progress(phase="verify", done=done, total=10) for done in (0, 10)]
    assert isinstance(verified, Verified)
    expected = searched(export_plan, tokenizer, task)
    assert verified.scores.quality.tolist() == pytest.approx(expected.quality.tolist(), rel=1e-4)
    assert verified.scores.exact.tolist() == expected.exact.tolist()
    np.testing.assert_allclose(verified.scores.nll_nats, expected.nll_nats, rtol=1e-4, atol=1e-4)
    assert verified.scores.tokens == expected.tokens
    assert verified.tokens_per_second > 0
    assert verified.spent is None
    assert verified.dense_tokens_per_second > 0


def test_speed_is_the_median_of_reading() -> None:
    """Not of writing: a model writes as much as it likes."""
    seconds = iter([1.0, 1.0, 4.0, 3.0, 2.0, 6.0])
    asked: list[ScoreRequest] = []

    class Slower:
        def score(self, request: ScoreRequest) -> Scores:
            asked.append(request)
            nothing = np.zeros(3)
            return Scores(
                quality=nothing, exact=nothing, nll_nats=nothing, kl_nats=nothing, answer_tokens=nothing,
                tokens=12, seconds=next(seconds),
            )  # fmt: skip

    one: Any = Slower()
    assert _speeds({"dense": one, "exported": one}, "confirm", 3) == {"dense": 6.0, "exported": 4.0}
    assert len(asked) == 2 * SPEED_ROUNDS
    assert all(request.loss_only and (request.split, request.stop) == ("confirm", 3) for request in asked)


@pytest.mark.parametrize("kind", ["prefill", "decode"])
def test_both_models_are_timed(
    plan: VerificationPlan,
    export_plan: ExportPlan,
    make_task: Callable[..., EncodedTask],
    make_flop_timer: MakeTimer,
    kind: WorkloadKind,
) -> None:
    timed = replace(plan, timed=(Workload(kind=kind, rows=2, length=5), 1))
    *_, verified = verify(timed, make_task("choice"), make_flop_timer)
    assert isinstance(verified, Verified)
    assert verified.spent is not None
    live = json.loads((export_plan.folder / "config.json").read_text())["ranksieve"]["ranks"]
    saved = 0
    for matrix in export_plan.matrices:
        rank = live.get(matrix.name, DENSE)
        width = matrix.out_features + matrix.in_features
        saved += 0 if rank == DENSE else matrix.dense_params - rank * width
    tokens = 10 if kind == "prefill" else 2
    assert verified.spent.dense_nanoseconds - verified.spent.nanoseconds == 2 * tokens * saved


def test_long_split_comes_in_chunks(
    plan: VerificationPlan, make_task: Callable[..., EncodedTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranksieve.workers.export.verification, "CHUNK", 7)
    *progress, verified = verify(replace(plan, split="search", examples=16), make_task("choice"))
    assert [item.done for item in progress if isinstance(item, Progress)] == [0, 7, 14, 16]
    assert isinstance(verified, Verified)
    assert len(verified.scores.quality) == 16


def test_models_are_timed_on_the_examples_of_their_kind(
    plan: VerificationPlan, make_task: Callable[..., EncodedTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranksieve.workers.export.verification, "SPEED_EXAMPLES", {"choice": 6, "generate": 2})
    scored: list[int] = []

    def score(scorer: Scorer, request: ScoreRequest) -> Scores | Failure:
        scored.append(request.stop - request.start)
        return untouched(scorer, request)

    untouched = Scorer.score
    monkeypatch.setattr(Scorer, "score", score)
    for kind in ("choice", "generate"):
        list(verify(plan, make_task(kind)))
    assert scored == [10, *6 * [6], 10, *6 * [2]]


def test_broken_export_is_not_verified(plan: VerificationPlan, make_task: Callable[..., EncodedTask]) -> None:
    file = plan.exported / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][0] = torch.nan
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(ScoringError, match="not finite"):
        list(verify(plan, make_task("choice")))


def test_threads_of_scoring_and_of_timing(
    plan: VerificationPlan, make_task, make_flop_timer, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored_on: set[int] = set()
    timed_on: list[int] = []
    untouched, before = Scorer.score, torch.get_num_threads()

    def score(scorer, request):
        scored_on.add(torch.get_num_threads())
        return untouched(scorer, request)

    def make_timer(device, threads):
        timed_on.append(torch.get_num_threads())
        return make_flop_timer(device, threads)

    monkeypatch.setattr(Scorer, "score", score)
    monkeypatch.setattr(ranksieve.workers.export.verification, "processors", lambda: 2)
    torch.set_num_threads(1)
    try:
        timed = (Workload(kind="prefill", rows=2, length=5), 1)
        list(verify(replace(plan, threads=4, timed=timed), make_task("choice"), make_timer))
    finally:
        torch.set_num_threads(before)
    assert (scored_on, timed_on) == ({2}, [1])


def test_stranger_gets_the_saved_dtype(plan: VerificationPlan) -> None:
    file, config = plan.exported / "model.safetensors", plan.exported / "config.json"
    tensors = load_file(file)
    halved = {name: one.bfloat16() if one.is_floating_point() else one for name, one in tensors.items()}
    save_file(halved, file, {"format": "pt"})
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "bfloat16"}))
    model = ranksieve.workers.export.verification._load_like_a_stranger(plan.exported, torch.device("cpu"))
    assert {one.dtype for one in model.parameters()} == {torch.bfloat16}


def test_a_forward_pass_is_timed_in_many_rounds(plan: VerificationPlan, make_task, make_flop_timer) -> None:
    rounds = []

    def make_timer(device, threads):
        timer = make_flop_timer(device, threads)
        collect = timer.collect

        def counted():
            rounds.append(collect())
            return rounds[-1]

        timer.collect = counted
        return timer

    timed = replace(plan, timed=(Workload(kind="prefill", rows=2, length=5), 1))
    list(verify(timed, make_task("choice"), make_timer))
    assert [len(one) for one in rounds] == [2] * (1 + LATENCY_ROUNDS)
