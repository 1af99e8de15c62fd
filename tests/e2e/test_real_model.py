"""A small job on a real model and real data, through the command line: the one test that downloads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ranksieve.api.cli.demo import demo_spec
from ranksieve.search.errors import InfrastructureError
from ranksieve.service.server.demo_assets import DemoAssets, fetch

SHARE = 0.45


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> DemoAssets:
    """SmolLM2-135M-Instruct and movie reviews."""
    try:
        return fetch(tmp_path_factory.mktemp("assets"))
    except InfrastructureError as error:
        pytest.skip(f"THE REAL MODEL WAS NOT TESTED, its archives cannot be downloaded: {error}")


@pytest.mark.timeout(1800)
def test_the_real_model_keeps_its_task_at_less_than_half(
    ranksieve: Callable[..., Any], assets: DemoAssets, tmp_path: Path
) -> None:
    spec = demo_spec(assets.gguf, assets.reviews, seed=0, method="task", refine_epochs=1).canonical()
    spec["name"] = "movie reviews, small"
    spec["task"]["data"]["sizes"] = {"calibration": 24, "search": 32, "confirm": 32, "test": 64}
    spec["search"] = {
        "population": 2, "offspring": 2, "survivors": 1, "screen": 16,
        "generations": 1, "max_evaluations": 4, "reweigh_rounds": 1, "descent_rounds": 1,
    }  # fmt: skip
    spec["objective"] = {"kind": "target_params", "share": SHARE}
    spec["projection"]["propagated_shares"] = [SHARE]
    file = tmp_path / "job.yaml"
    file.write_text(json.dumps(spec))
    root = assets.gguf.parent
    done = ranksieve("run", file, "--json", "--data-dir", tmp_path / "data", "--root", root)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["dense"]["total_params"] == 134_515_008
    assert result["dense"]["metric"]["test"] > 0.6
    assert result["best"]["metric"]["test"] > 0.6
    assert 0.4 < result["best"]["kept_block_params"] <= SHARE
    assert len(result["genome"]) == 210
    assert "factors after errors were propagated in models of" in done.stderr
    assert "loaded back in a fresh process" in done.stderr
