"""Scoring a model folder without a server, on the tiny model."""

import math
from pathlib import Path
from typing import Any

import pytest
from tuning import tune

from ranksieve.search.errors import InputError
from ranksieve.service.pipeline.evaluation import evaluate_export, sample_choices
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec

Document = dict[str, Any]


@pytest.fixture
def settings(tiny_root: Path, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", roots=[tiny_root])


def test_a_choice_has_accuracy_and_its_interval(
    settings: Settings, tiny_root: Path, tiny_job: Document
) -> None:
    spec = JobSpec.model_validate(tune(tiny_job))
    values = evaluate_export(settings, tiny_root / "model", spec, "test")
    assert (values["metric_name"], values["examples"]) == ("accuracy", 64)
    low, high = values["interval"]
    assert 0 <= low < values["metric"] < high <= 1
    assert values["exact_match"] == values["metric"]
    assert values["nll_nats"] > 0
    assert values["tokens_per_second"] > 0


def test_a_text_has_perplexity_and_no_interval(
    settings: Settings, tiny_root: Path, tiny_job: Document
) -> None:
    data = tiny_job["task"]["data"]
    tiny_job["task"] = {"kind": "lm", "answer": "Review: {{ text }}", "data": data}
    values = evaluate_export(settings, tiny_root / "model", JobSpec.model_validate(tune(tiny_job)), "confirm")
    assert values["metric_name"] == "perplexity"
    assert values["metric"] == pytest.approx(math.exp(values["nll_nats"] / 3))  # of ':', 'film', number
    assert "interval" not in values


def test_the_same_folder_gives_the_same_numbers(
    settings: Settings, tiny_root: Path, tiny_job: Document
) -> None:
    spec = JobSpec.model_validate(tune(tiny_job))
    first, second = (evaluate_export(settings, tiny_root / "model", spec, "search") for _ in range(2))
    del first["tokens_per_second"], second["tokens_per_second"]
    assert first == second


def test_a_folder_without_a_model_is_refused(settings: Settings, tmp_path: Path, tiny_job: Document) -> None:
    with pytest.raises(InputError, match=r"config\.json") as caught:
        evaluate_export(settings, tmp_path, JobSpec.model_validate(tune(tiny_job)), "test")
    assert caught.value.field == "model_dir"


def test_an_unknown_split_is_refused(settings: Settings, tiny_root: Path, tiny_job: Document) -> None:
    with pytest.raises(InputError) as caught:
        evaluate_export(settings, tiny_root / "model", JobSpec.model_validate(tune(tiny_job)), "train")
    assert caught.value.field == "split"


def test_samples_are_prompts_with_the_right_and_the_chosen_label(
    settings: Settings, tiny_root: Path, tiny_job: Document
) -> None:
    spec = JobSpec.model_validate(tune(tiny_job))
    samples = sample_choices(settings, tiny_root / "model", spec, 5)
    assert len(samples) == 5
    for sample in samples:
        assert sample["prompt"].startswith("Review : film ")
        number = int(sample["prompt"].split()[3])
        assert sample["label"] == ("good" if number % 2 else "bad")
        assert sample["answer"] in {"good", "bad"}
