"""Comparing rivals without a server, on the tiny model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ranksieve.search.errors import InputError
from ranksieve.service.pipeline import compare
from ranksieve.service.pipeline.compare import compare_rivals
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.workers.rivals.comparison import Compared
from ranksieve.workers.types.scores import Scores

Document = dict[str, Any]


@pytest.fixture
def settings(tiny_root: Path, tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", roots=[tiny_root])


def spec_of(document: Document) -> JobSpec:
    return JobSpec.model_validate({name: value for name, value in document.items() if name != "policy"})


def test_drops_are_from_the_better_dense_model(settings: Settings, tiny_job: Document) -> None:
    lines: list[str] = []
    values = compare_rivals(settings, spec_of(tiny_job), ["first-blocks"], lines.append)
    assert "first-blocks (1 of 1)" in lines
    assert (values["metric_name"], values["examples"], values["points"]) == ("accuracy", 64, 1.0)
    by_name = {one["name"]: one for one in values["rivals"]}
    assert list(by_name) == ["dense", "dense, answer bias", "first 1 of 2 blocks, tuned"]
    reference = by_name[values["reference"]]
    assert reference["metric"] == max(by_name[name]["metric"] for name in ("dense", "dense, answer bias"))
    assert reference["drop_points"] == [0, 0, 0]
    tuned = by_name["first 1 of 2 blocks, tuned"]
    estimate, low, high = tuned["drop_points"]
    assert estimate == pytest.approx(100 * (reference["metric"] - tuned["metric"]))
    assert low <= estimate <= high
    assert (values["enough"] == tuned["name"]) == (high <= 1.0)
    assert tuned["file_bytes"] < reference["file_bytes"]
    assert values["skipped"] == []
    assert {"task", "test"} <= set(values["data"])


def scored(kind: str, name: str, size_bytes: int, wrong: int) -> Compared:
    """A model that is wrong about the first of 64 test records."""
    right_E = np.array([0.0] * wrong + [1.0] * (64 - wrong))
    zeros_E = np.zeros(64)
    scores = Scores(
        quality=right_E,
        exact=right_E,
        nll_nats=zeros_E,
        kl_nats=zeros_E,
        answer_tokens=zeros_E + 1,
        tokens=64,
        seconds=1.0,
    )
    return Compared(
        kind=kind,
        name=name,
        settings={},
        size_bytes=size_bytes,
        tokens_per_second=1.0,
        speedup=1.0,
        seconds=1.0,
        scores=scores,
    )


@pytest.mark.parametrize(("points", "enough"), [(1.0, None), (5.0, "half"), (40.0, "tiny")])
def test_the_smallest_that_loses_little_is_enough(
    settings: Settings,
    tiny_job: Document,
    monkeypatch: pytest.MonkeyPatch,
    points: float,
    enough: str | None,
) -> None:
    found = [
        scored("dense", "dense", 100, 8),
        scored("dense", "dense, answer bias", 101, 4),
        scored("lora", "tuned", 101, 0),
        scored("first-blocks", "half", 50, 5),
        scored("tfidf", "tiny", 1, 20),
    ]
    monkeypatch.setattr(compare, "compare", lambda plan: found)
    tiny_job["objective"] = {"kind": "max_drop", "points": points}
    values = compare_rivals(settings, spec_of(tiny_job), ["few-shot"], lambda line: None)
    assert values["reference"] == "dense, answer bias"
    assert [round(one["drop_points"][0], 2) for one in values["rivals"]] == [6.25, 0.0, -6.25, 1.56, 25.0]
    assert values["enough"] == enough


def test_texts_are_compared_by_perplexity(settings: Settings, tiny_job: Document) -> None:
    data = tiny_job["task"]["data"]
    tiny_job["task"] = {"kind": "lm", "answer": "Review: {{ text }}", "data": data}
    values = compare_rivals(settings, spec_of(tiny_job), ["few-shot"], lambda line: None)
    assert values["metric_name"] == "perplexity"
    assert [one["interval"] for one in values["rivals"]] == [None]
    assert values["skipped"] == [{"kind": "few-shot", "reason": "needs prompts, without the chat template"}]


def test_an_unknown_rival_is_refused(settings: Settings, tiny_job: Document) -> None:
    with pytest.raises(InputError, match="must be one of tfidf"):
        compare_rivals(settings, spec_of(tiny_job), ["bert"], lambda line: None)
