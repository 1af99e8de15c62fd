"""The dry run of a job: the same checks as a submission, true bounds, and nothing left behind."""

import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig
from tuning import front, tune

from ranksieve.search.errors import InputError
from ranksieve.search.evolution.evolution import Evolution
from ranksieve.search.evolution.outcome import Outcome
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.service import wiring
from ranksieve.service.application import Application
from ranksieve.service.pipeline import latency
from ranksieve.service.pipeline.checking import check_job
from ranksieve.service.pipeline.estimate import (
    NO_WEIGHTS,
    _loads,
    estimate_job,
    estimate_size,
    finalists,
    scorings,
)
from ranksieve.service.pipeline.search_plan import search_plan
from ranksieve.service.policy import policy_of
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec, resources
from ranksieve.workers.cost.shapes import size_of, uniform_load
from ranksieve.workers.cost.speed import DATA_SHEETS
from ranksieve.workers.export.verification import LATENCY_ROUNDS, SPEED_EXAMPLES, SPEED_ROUNDS
from ranksieve.workers.model.filesize import Remainder

Document = dict[str, Any]
PHASES = ["prepare", "dense", "search", "confirm", "test", "export", "verify"]
LLAMA = {"vocab_size": 128_256, "num_key_value_heads": 8}
LLAMA_8B = LLAMA | {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32}
LLAMA_70B = LLAMA | {"hidden_size": 8192, "intermediate_size": 28_672, "num_hidden_layers": 80}


@pytest.fixture
def application(tiny_root: Path, tmp_path: Path) -> Application:
    return wiring.build(Settings(data_dir=tmp_path / "data", roots=[tiny_root]), in_children=False)


def test_every_phase_is_told_and_no_job_is_made(application: Application, tiny_job: Document) -> None:
    estimate = application.estimate(JobSpec.model_validate(tune(tiny_job)))

    assert [phase["phase"] for phase in estimate["phases"]] == PHASES
    assert estimate["model"]["matrices"] == 14
    assert estimate["gram_passes"] == 1
    assert estimate["evaluations_at_most"] == 3 + 3 * 4  # seeds, and children of three generations
    assert estimate["machine"]["measured"]
    assert estimate["notes"] == []
    total = estimate["total"]
    assert total["tokens"] == sum(phase["tokens"] for phase in estimate["phases"]) > 0
    assert total["host_bytes"] == max(phase["host_bytes"] for phase in estimate["phases"])
    assert total["accelerator_bytes"] == 0
    assert 0 < total["seconds_low"] < total["seconds_high"]
    assert not (application.settings.data_dir / "ranksieve.db").exists()
    assert application.health()["running_jobs"] == []


@pytest.mark.parametrize("workload", ["prefill", "decode"])
def test_measuring_latencies_is_a_phase(application: Application, tiny_job: Document, workload: str) -> None:
    tiny_job["objective"] = {"kind": "target_latency", "share": 0.8, "workload": workload}
    estimate = application.estimate(JobSpec.model_validate(tune(tiny_job)))
    assert [phase["phase"] for phase in estimate["phases"]] == ["prepare", "latency", *PHASES[1:]]
    assert estimate["phases"][1]["tokens"] > 0
    assert estimate["phases"][1]["seconds_high"] > 0


def test_what_is_timed_is_timed_again_when_it_is_verified(
    application: Application, tiny_job: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_job["objective"] = {"kind": "target_latency", "share": 0.8}

    def verify(length: int) -> Document:
        monkeypatch.setattr(latency, "typical_batch", lambda *_: (100, length))
        phases = application.estimate(JobSpec.model_validate(tune(tiny_job)))["phases"]
        (phase,) = (phase for phase in phases if phase["phase"] == "verify")
        return phase  # type: ignore[no-any-return]

    short, long = verify(8), verify(16)
    passes = 2 * (1 + LATENCY_ROUNDS)
    assert long["tokens"] - short["tokens"] == passes * 100 * 8
    assert long["host_bytes"] > short["host_bytes"]


def test_what_a_submission_refuses_is_refused_alike(application: Application, tiny_job: Document) -> None:
    tiny_job["task"]["prompt"] = "{{ body }}"
    spec = JobSpec.model_validate(tune(tiny_job))
    with pytest.raises(InputError) as from_estimate:
        application.estimate(spec)
    with pytest.raises(InputError) as from_submission:
        application.submit(spec)
    assert str(from_estimate.value) == str(from_submission.value)
    assert from_estimate.value.field == "task.prompt"


def test_answers_that_no_model_can_write_whole_are_told(application: Application, tiny_job: Document) -> None:
    estimate = application.estimate(JobSpec.model_validate(tune(tiny_job)))
    assert not estimate["notes"]
    task = {
        **{key: value for key, value in tiny_job["task"].items() if key != "choices"},
        "kind": "generate",
        "answer": "{% if label == 'good' %}good good good{% else %}bad{% endif %}",
        "max_new_tokens": 2,
    }
    notes = application.estimate(JobSpec.model_validate({**tune(tiny_job), "task": task}))["notes"]
    assert any(
        re.match(r"\d+ of \d+ answers cannot be written whole: .* task.max_new_tokens, 2;", note)
        for note in notes
    )


def test_a_model_without_weights_can_be_told_of_but_not_submitted(
    application: Application, tiny_job: Document, tiny_root: Path, tmp_path: Path
) -> None:
    spec = JobSpec.model_validate(tune(tiny_job))
    whole = application.estimate(spec)
    bare = shutil.copytree(tiny_root, tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    application = wiring.build(Settings(data_dir=tmp_path / "data", roots=[bare]), in_children=False)
    estimate = application.estimate(spec)
    assert [phase["host_bytes"] for phase in estimate["phases"]] == [
        phase["host_bytes"] for phase in whole["phases"]
    ]
    assert estimate["notes"] == [NO_WEIGHTS]
    with pytest.raises(InputError, match=r"holds no \.safetensors weights"):
        application.submit(spec)


def test_less_memory_for_grams_takes_more_passes(
    application: Application, tiny_job: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "GRAM_BYTES", 1)
    estimate = application.estimate(JobSpec.model_validate(tune(tiny_job)))
    assert estimate["gram_passes"] == 14


def test_training_on_fewer_records_takes_fewer_tokens(application: Application, tiny_job: Document) -> None:
    calibration = tiny_job["task"]["data"]["sizes"]["calibration"]
    tiny_job["policy"] |= {"gram_examples": 1, "train_epochs": 1}

    def prepared(examples: int | None) -> int:
        tiny_job["policy"]["train_examples"] = examples
        tokens: int = application.estimate(JobSpec.model_validate(tune(tiny_job)))["phases"][0]["tokens"]
        return tokens

    assert prepared(1) < prepared(calibration // 2) < prepared(None) == prepared(2 * calibration)


@pytest.mark.parametrize("kind", ["max_drop", "target_params", "target_bytes", "pareto"])
@pytest.mark.parametrize("seed", range(6))
def test_no_search_scores_more_than_its_bound(tiny_job: Document, kind: str, seed: int) -> None:
    rng = random.Random(seed)
    sized = kind in ("target_params", "target_bytes")
    tiny_job["objective"] = {"kind": kind, **({"share": 0.4} if sized else {"points": 2})}
    front(sizes=4)
    tiny_job["policy"]["rank_step"] = 4
    tiny_job["policy"]["search"] |= {
        "population": rng.choice([3, 12]), "offspring": rng.choice([4, 9]), "generations": rng.choice([1, 6]),
        "max_evaluations": rng.choice([5, 30, 200]),
    }  # fmt: skip
    tiny_job["search"] = {"seeds": [{"ranks": [rng.choice([4, 8])] * 6} for _ in range(rng.choice([0, 6]))]}
    spec = JobSpec.model_validate(tune(tiny_job))
    scored, confirmed = _play(spec, rng)
    assert scored <= scorings(spec) <= policy_of(spec).search.max_evaluations
    assert confirmed <= finalists(spec)


def _play(spec: JobSpec, rng: random.Random) -> tuple[int, int]:
    """Plays a search with random outcomes; how many trials it asked for, and how many finalists it had."""
    matrices = [
        MatrixShape(name=f"m{i}", out_features=64, in_features=64, layer=i, kind="m") for i in range(6)
    ]
    plan = search_plan(
        spec, matrices, Remainder(numbers=1000, other_bytes=0, header_bytes=100), "float32", []
    )
    space, energies = plan.space, [np.arange(64, 0, -1, dtype=np.float64)] * 6
    evolution = Evolution(space, energies, plan.objective, plan.settings, seeds=plan.seeds)
    asked = 0
    while not evolution.finished:
        trials = evolution.ask()
        asked += len(trials)
        evolution.tell(
            [
                Outcome(
                    genome=trial.genome,
                    examples=trial.examples,
                    kl_nats=rng.random(),
                    drop_points=4 * rng.random() * (1 - space.kept_share(trial.genome)),
                    metric=0.5,
                )
                for trial in trials
            ]
        )
        while evolution.retire() is not None:
            pass
    return asked, len(evolution.finalists())


@pytest.fixture
def on_h100(make_spec: Callable[..., JobSpec]) -> Callable[..., Document]:
    """Estimates a model from its configuration alone, on four H100s with the defaults of a job, untrained."""

    def on_h100(config: LlamaConfig, **resources: Any) -> Document:
        document = make_spec().canonical()
        document["resources"] |= {"actors": 4, "gpus_per_actor": 1, **resources}
        return estimate_size(
            size_of(config), JobSpec.model_validate(tune(document)), 256, DATA_SHEETS["H100"]
        )

    return on_h100


def test_llama_8b_on_an_h100(on_h100: Callable[..., Document], monkeypatch: pytest.MonkeyPatch) -> None:
    config = LlamaConfig(**LLAMA_8B, num_attention_heads=32)  # type: ignore[arg-type]
    estimate = on_h100(config)
    assert estimate["model"]["total_params"] == 8_030_261_248
    assert estimate["gram_passes"] == 3  # 23.1 GB of Grams, 8.6 GB at a time
    # 16.1 GB of weights, 4096 tokens of 2 bytes x 2.6e6 widths on their way back: 21.5, and a context; with at most
    # 8.6 of Grams and 4.2 of a smaller model's factors to prepare
    peaks = {phase["phase"]: phase["accelerator_bytes"] for phase in estimate["phases"]}
    assert 49.7e9 < peaks["prepare"] == estimate["total"]["accelerator_bytes"] < 51.2e9
    assert [note.split(":")[0] for note in estimate["notes"]] == ["not timed"]
    monkeypatch.setattr(resources, "GRAM_BYTES", 64 * 2**30)
    assert on_h100(config)["gram_passes"] == 1
    # a pass over 256 examples of 256 tokens takes 2 x 6.98e9 FLOPs a token, 1 % more for attention; it is made both
    # ways for each of three groups of Grams, before that with a quarter of the examples. Factors are made twice, each
    # time with 14 x 32 x (5 x 4096³ + 2 x 1024³)
    assert estimate["phases"][0]["flops"] == pytest.approx(
        0.0924e16 * 3 * 3 * (1 + 0.25) + 2 * 0.0155e16, rel=0.01
    )


@pytest.mark.parametrize(
    ("objective", "confirm", "advice"),
    [
        (
            {"kind": "max_drop", "points": 1, "confidence": 0.95},
            407,
            "give task.data.sizes.confirm 408 or more",
        ),
        ({"kind": "max_drop", "points": 1, "confidence": 0.95}, 408, None),
        ({"kind": "max_drop", "points": 2}, 64, "give task.data.sizes.confirm 135 or more"),
        ({"kind": "pareto", "points": 2, "confidence": 0.8}, 64, "give task.data.sizes.confirm 91 or more"),
        ({"kind": "max_drop", "points": 0}, 5000, ": allow more points"),
        ({"kind": "max_drop", "points": 1e-4}, 5000, ": allow more points"),  # than a split may hold
        ({"kind": "max_drop", "points": 5e-324}, 5000, ": allow more points"),
        ({"kind": "pareto", "points": 1e-310}, 5000, ": allow more points"),
        ({"kind": "target_params", "share": 0.5}, 8, None),
    ],
)
def test_a_promise_that_hardly_any_model_could_keep_is_told(
    make_spec: Callable[..., JobSpec], objective: Document, confirm: int, advice: str | None
) -> None:
    document = make_spec().canonical()
    document["objective"] = objective
    document["task"]["data"]["sizes"]["confirm"] = confirm
    config = LlamaConfig(**LLAMA_8B, num_attention_heads=32)  # type: ignore[arg-type]
    spec = JobSpec.model_validate(tune(document))
    notes = estimate_size(size_of(config), spec, 256, DATA_SHEETS["H100"])["notes"]
    advised = [
        note for note in notes if note.startswith(f"{confirm:,} records to confirm are too few to promise")
    ]
    assert len(advised) == (advice is not None)
    assert advice is None or advice in advised[0]


def test_llama_70b_fits_on_gpus_together_and_the_estimate_says_so(
    on_h100: Callable[..., Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "GRAM_BYTES", 16 * 2**30)
    config = LlamaConfig(**LLAMA_70B, num_attention_heads=64)  # type: ignore[arg-type]
    estimate = on_h100(config)
    assert estimate["model"]["total_params"] == 70_553_706_496
    assert estimate["gram_passes"] == 13
    # 16 bytes x little more than half of (5 x 8192² + 2 x 1024²) x 80 layers = 221 GB, 17.2 at a time
    assert estimate["total"]["accelerator_bytes"] > 141e9
    assert any("raise resources.gpus_per_actor" in note for note in estimate["notes"])
    spread = on_h100(config, gpus_per_actor=8)
    # 10 blocks of 80 on each, so an eighth of 141 GB of weights, of 41 of a smaller model's factors and of 106 of a
    # batch on its way back, 36.0; Grams, which may all belong to one GPU's blocks, 17.2
    assert 52.5e9 < spread["total"]["accelerator_bytes"] < 55e9
    assert [note.split(":")[0] for note in spread["notes"]] == ["not timed"]
    seconds = [sum(phase["seconds_high"] for phase in one["phases"]) for one in (estimate, spread)]
    assert seconds[0] == pytest.approx(seconds[1])  # they take turns


def test_grams_are_gathered_from_as_many_records_as_the_job_says(make_spec) -> None:
    document = make_spec().canonical()
    document["policy"] = {"gram_examples": 4, "train_examples": None}
    spec = JobSpec.model_validate(tune(document))
    loads = _loads(spec, lambda split, stop: uniform_load(len(range(64)[:stop]), 8, 64))
    assert loads["calibration"].tokens == 4 * 8
    assert loads["training"].tokens == 64 * 8


@pytest.mark.parametrize("kind", ["choice", "generate"])
def test_an_export_is_verified_once_and_both_models_are_timed_in_rounds(make_spec, kind: str) -> None:
    document = make_spec().canonical()
    document["task"] |= {"kind": kind, "data": {**document["task"]["data"]}}
    if kind == "generate":
        document["task"]["choices"] = None
    document["task"]["data"]["sizes"]["confirm"] = 200
    document["objective"] = {"kind": "target_params", "share": 0.5}
    spec = JobSpec.model_validate(tune(document))
    size = size_of(LlamaConfig(**LLAMA_8B, num_attention_heads=32))
    phases = {
        phase["phase"]: phase for phase in estimate_size(size, spec, 256, DATA_SHEETS["H100"])["phases"]
    }
    assert phases["confirm"]["tokens"] == finalists(spec) * 200 * 256
    assert phases["verify"]["tokens"] == (200 + 2 * SPEED_ROUNDS * SPEED_EXAMPLES[kind]) * 256


def test_a_model_that_cannot_be_cut_is_not_tuned(tiny_root: Path, tmp_path: Path, tiny_job) -> None:
    settings = Settings(data_dir=tmp_path / "data", roots=[tiny_root])
    tiny_job["policy"]["train_epochs"] = 1
    spec = JobSpec.model_validate(tune(tiny_job))
    checked = check_job(settings, spec, weights="ignored")

    def prepared(by_block: bool) -> int:
        described = estimate_job(settings, spec, replace(checked, by_block=by_block))
        tokens: int = described["phases"][0]["tokens"]
        return tokens

    assert prepared(True) > prepared(False)
