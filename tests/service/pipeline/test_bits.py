"""Whole jobs whose candidates are scored with the weights that they are stored with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from local_jobs import Document, Finished, Jobs, LocalCluster, shorten
from tiny_job import save_model
from transformers import AutoModelForCausalLM
from tuning import tune

from ranksieve.search.errors import InputError
from ranksieve.service.pipeline.checking import check_job
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.workers.machine import extras
from ranksieve.workers.types.plan import EncodedTask, Example

Check = Callable[[Document], EncodedTask]


@pytest.fixture(scope="session")
def _wide_model(tiny_root: Path) -> None:
    """A model beside the tiny one whose matrices have ranks of 16 and 32."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    save_model(tiny_root / "wide", **sizes, initializer_range=0.3)


@pytest.fixture
def rounded_job(tiny_job: Document, _wide_model: None) -> Document:
    """A job of 4 bits."""
    tiny_job["model"]["path"] = "wide"
    tiny_job["bits"] = 4
    return tiny_job


@pytest.fixture
def rounded(once: Any, rounded_job: Document) -> Finished:
    """The job of 4 bits, finished."""
    done: Finished = once("rounded", rounded_job)
    return done


@pytest.fixture
def check(tiny_root: Path, tmp_path: Path) -> Check:
    """Checks a job as a submission does."""

    def run(document: Document) -> EncodedTask:
        settings = Settings(data_dir=tmp_path / "checked", roots=[tiny_root])
        return check_job(settings, JobSpec.model_validate(tune(document))).task

    return run


@torch.inference_mode()
def chosen(model: Any, example: Example) -> int:
    """The choice that a model answers with; every choice is one token."""
    (row,) = example.rows
    logits_LV = model(torch.tensor([row.ids])).logits[0]
    return max(row.spans, key=lambda span: float(logits_LV[span.start, span.ids[0]])).choice


def test_the_exported_files_score_exactly_what_the_result_says(
    rounded: Finished, rounded_job: Document, check: Check
) -> None:
    result = rounded.result
    assert set(result["ranks"].values()) <= {-1, 0, 16, 32}
    assert {16, 32} & set(result["ranks"].values())
    model = AutoModelForCausalLM.from_pretrained(result["artifact"], trust_remote_code=True)
    for split in ("confirm", "test"):
        examples = check(rounded_job).splits[split]
        right = sum(chosen(model, example) == example.label for example in examples)
        assert right / len(examples) == result["best"]["metric"][split]
    (verified,) = rounded.events("artifact.verified")
    assert verified["metric"] == verified["expected"]
    assert result["best"]["file_bytes"] < 0.35 * 4 * result["best"]["total_params"]


def test_the_reference_is_not_rounded(
    rounded: Finished, rounded_job: Document, check: Check, tiny_root: Path
) -> None:
    dense = AutoModelForCausalLM.from_pretrained(tiny_root / "wide")
    examples = check(rounded_job).splits["test"]
    right = sum(chosen(dense, example) == example.label for example in examples)
    assert right / len(examples) == rounded.result["dense"]["metric"]["test"]


def test_card_and_provenance_say_that_the_numbers_are_of_the_rounded_model(rounded: Finished) -> None:
    card = ModelCard.load(Path(rounded.result["artifact"]) / "README.md").text
    assert "stored in 4 bits" in card
    assert "All numbers above are of this rounded model" in card
    assert "and `compressed-tensors`. The folder's" in card
    assert rounded.result["bits"] == 4


def test_a_file_size_counts_stored_bits_and_scales(jobs: Jobs, rounded_job: Document) -> None:
    rounded_job["objective"] = {"kind": "target_bytes", "share": 0.22}
    jobs.submit(shorten(rounded_job))
    result = jobs.run(LocalCluster())
    assert result["target_bytes"] == pytest.approx(0.22 * result["dense"]["file_bytes"], rel=0.01)
    assert result["best"]["file_bytes"] <= result["target_bytes"] < 4 * result["best"]["total_params"]
    assert result["promise_held"] is True


def test_another_size_of_such_a_job_has_its_bits(jobs: Jobs, rounded: Finished) -> None:
    id = jobs.adopt(rounded)
    candidate = jobs.store.front(id)[0]
    jobs.export(id, candidate=candidate["id"])
    result = jobs.run(LocalCluster())
    assert result["bits"] == 4
    assert result["best"]["file_bytes"] < 0.35 * 4 * result["best"]["total_params"]
    assert result["best"]["metric"]["search"] == candidate["metric"]


def test_a_job_that_cannot_be_rounded_is_refused_at_once(
    rounded_job: Document, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"bits: .*pip install 'ranksieve\[quantize\]'"):
        check(rounded_job)
