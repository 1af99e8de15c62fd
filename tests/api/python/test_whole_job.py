"""A whole job from Python on a real Ray: a tiny model, and records out of a DataFrame."""

import json
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pandas
import pytest
from tiny_job import CPU_BATCH_TOKENS, SPLITS, document_of, make_world
from tuning import PLAIN, tuned

import ranksieve
from ranksieve.service import policy
from ranksieve.service.spec.resources import BATCH_TOKENS


@pytest.fixture(scope="module")
def sieved(tmp_path_factory):
    """What the job left, as values. It has a process of its own: this one may have a Ray session already."""
    folder = tmp_path_factory.mktemp("world")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, __file__, folder], check=True, env=environment)
    return json.loads((folder / "sieved.json").read_text())


def test_the_model_is_in_the_folder_and_loads(sieved):
    folder = Path(sieved["folder"])

    assert (folder.name, folder.parent.name) == ("model", "small")
    assert (folder / "config.json").is_file()
    assert sieved["parameters"] == sieved["result"]["best"]["total_params"]
    assert sieved["class"] == "LowRankLlamaForCausalLM"


def test_the_result_and_its_summary(sieved):
    assert 0 < sieved["result"]["best"]["kept_block_params"] <= 0.4
    assert "dense and sieved" in sieved["summary"]


def test_the_candidates_of_the_search(sieved):
    rows = pandas.read_json(StringIO(sieved["rows"]))

    assert len(rows) >= sieved["result"]["evaluations"] > 0
    assert rows["kept_share"].between(0, 0.4).all()


def test_figures_have_what_the_job_has(sieved):
    assert sieved["points"] == len(sieved["candidates"])
    assert sieved["cells"] == len(sieved["result"]["ranks"])
    assert [bytes.fromhex(start) for start in sieved["pictures"]] == [b"\x89PNG"] * 2


def _sieve(folder):
    make_world(folder)
    policy.EFFORTS["normal"] = tuned(PLAIN, document_of(0)["policy"])
    BATCH_TOKENS["cpu"] = CPU_BATCH_TOKENS
    sieved = ranksieve.sieve(
        {"path": str(folder / "model"), "dtype": "float32"},
        pandas.read_json(folder / "films.jsonl", lines=True),
        prompt="Review: {{ text }} Mood:",
        answer="{{ label }}",
        choices=["good", "bad"],
        share=0.4,
        task={"data": {"sizes": SPLITS}},
        search={"max_evaluations": 20},
        resources={"actors": 1},
        data_dir=folder / "data",
        output=folder / "small",
        progress=False,
    )
    model = sieved.load()
    figures = [sieved.plot_tradeoff(), sieved.plot_ranks()]
    sizes, ranks = (figure.axes[0] for figure in figures)
    values = {
        "folder": str(sieved.folder),
        "result": sieved.result,
        "summary": sieved.summary,
        "candidates": sieved.candidates,
        "rows": sieved.to_pandas().to_json(),
        "points": sum(
            len(dots.get_offsets()) for dots in sizes.collections if "search split" in dots.get_label()
        ),
        "cells": len(ranks.texts),
        "pictures": [figure._repr_png_()[:4].hex() for figure in figures],
        "parameters": model.num_parameters(),
        "class": type(model).__name__,
    }
    (folder / "sieved.json").write_text(json.dumps(values))


if __name__ == "__main__":
    _sieve(Path(sys.argv[1]))
