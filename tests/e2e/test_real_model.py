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

PARAMS, BLOCKS, MATRICES_PER_BLOCK = 134_515_008, 30, 7


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


@pytest.fixture
def spec(assets: DemoAssets) -> Document:
    """The demo's job with few records."""
    spec = demo_spec(assets.gguf, assets.reviews, seed=0, effort="quick").canonical()
    spec["task"]["data"]["sizes"] = {"calibration": 64, "search": 32, "confirm": 32, "test": 64}
    spec["resources"]["actors"] = 1  # one more process would take longer to start than to score
    spec["objective"] = {"kind": "target_params", "share": 0.45}
    return spec


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("include", "blocks"),
    [("model.layers.1[0-4].*", 5), pytest.param("*", BLOCKS, marks=pytest.mark.campaign)],
)
def test_the_real_model_keeps_its_task_at_less_than_half(
    include: str, blocks: int, run: Run, spec: Document
) -> None:
    spec["model"]["include"] = [include]

    result, said = run(spec)

    assert result["dense"]["total_params"] == PARAMS
    assert result["dense"]["metric"]["test"] > 0.6
    assert result["best"]["metric"]["test"] > 0.6
    removed = 1 - result["best"]["kept_block_params"]
    assert 0.55 <= removed * BLOCKS / blocks < 0.6
    assert len(result["genome"]) == blocks * MATRICES_PER_BLOCK
    assert "loaded back in a fresh process" in said
