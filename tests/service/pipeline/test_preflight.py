"""Everything that can be wrong with a job and only files can tell, with the real checks behind REST and CLI."""

import json
import os
import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from starlette.testclient import TestClient
from transformers import ViTConfig
from tuning import tune
from typer.testing import CliRunner

from ranksieve.api.cli import main
from ranksieve.api.http.app import create_app
from ranksieve.service.application import Application
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.service.wiring import build

Document = dict[str, Any]

CONTEXT = 16  # of the tiny model
OFFLINE_ID = "owner/name/too/deep"

# What is wrong, where to put which value in the spec, and the field and words that the answer must have.
CASES: list[tuple[str, str, Any, str, str]] = [
    ("no such model", "model.path", "nowhere", "model.path", "no such file or folder"),
    ("model outside the roots", "model.path", "/etc", "model.path", "outside the folders"),
    ("link out of the roots", "model.path", "link", "model.path", "outside the folders"),
    ("path with NUL", "model.path", "mod\0el", "model.path", "NUL"),
    ("path with dots", "model.path", "../../etc", "model.path", "outside|no such"),
    ("a file for a folder", "model.path", "films.jsonl", "model.path", "folder with config.json"),
    ("folder without config", "model.path", "empty", "model.path", "folder with config.json"),
    ("pickled weights only", "model.path", "pickled", "model.path", "no .safetensors"),
    ("code of its own", "model.path", "remote", "model.path", "auto_map"),
    ("damaged config", "model.path", "damaged", "model.path", "not valid JSON"),
    ("unknown architecture", "model.path", "unknown", "model.path", "configuration"),
    ("config of another kind", "model.path", "vision", "model", "causal language model"),
    ("model without blocks", "model.path", "flat", "model", "no transformer blocks"),
    ("no tokenizer", "model.path", "mute", "model.path", "tokenizer"),
    ("no such gguf", "model", "nowhere.gguf", "model.path", "no such file"),
    ("gguf by name only", "model.path", "fake.gguf", "model.path", "not a gguf file"),
    ("truncated gguf", "model.path", "cut.gguf", "model.path", "cannot read"),
    ("no such adapter", "model.adapter", "nowhere", "model.adapter", "no such file or folder"),
    ("adapter outside the roots", "model.adapter", "/etc", "model.adapter", "outside the folders"),
    (
        "a model for an adapter",
        "model.adapter",
        "model",
        "model.adapter",
        "without a file adapter_config.json",
    ),
    ("impossible hub id", "model", {"hub": OFFLINE_ID}, "model.hub", "could not be fetched"),
    (
        "GPUs of another machine",
        "resources",
        {"gpus_per_actor": 64},
        "resources.gpus_per_actor",
        "needs 64 GPU",
    ),
    ("pattern that matches nothing", "model.include", ["*.conv"], "model.include", "no matrix matches"),
    ("everything excluded", "model.exclude", ["*"], "model.include", "no matrix matches"),
    ("no such data", "task.data.source.path", "gone.jsonl", "task.data.source.path", "no such file"),
    ("data outside", "task.data.source.path", "/etc/hostname", "task.data.source.path", "outside"),
    ("a folder of data", "task.data.source.path", "folder.jsonl", "task.data.source.path", "not a file"),
    ("unknown suffix", "task.data.source.path", "films.txt", "task.data.source.path", "ends in"),
    ("not JSON", "task.data.source.path", "broken.jsonl", "task.data.source.path", "line 2 is not JSON"),
    ("no records", "task.data.source.path", "none.jsonl", "task.data.source.path", "no records"),
    ("ragged csv", "task.data.source.path", "ragged.csv", "task.data.source.path", "line 2 has 3 fields"),
    ("not parquet", "task.data.source.path", "fake.parquet", "task.data.source.path", "not a parquet file"),
    ("bad hub data id", "task.data.source", {"hub": {"id": "csv"}}, "task.data.source.hub.id", "owner/name"),
    (
        "missing file of a split",
        "task.data.files",
        {"test": {"path": "gone.csv"}},
        "task.data.files.test.path",
        "no such file",
    ),
    ("absent field in prompt", "task.prompt", "{{ body }}", "task.prompt", "no field 'body'"),
    ("absent field in answer", "task.answer", "{{ mood }}", "task.answer", "no field 'mood'"),
    ("open brace", "task.prompt", "{{ text", "task.prompt", "bad template"),
    ("unknown tag", "task.answer", "{% frob %}", "task.answer", "bad template"),
    ("template that reaches out", "task.prompt", "{{ text.__class__ }}", "task.prompt", "does not render"),
    ("empty prompt", "task.prompt", "{{ ' ' * (text[5:] | int + 1) }}", "task.prompt", "no tokens"),
    ("label outside the choices", "task.choices", ["good", "film"], "task.answer", "is not one of"),
    ("choices alike", "task.choices", {"good": "what", "bad": "huh"}, "task.choices", "same tokens"),
    ("prompt over the context", "task.prompt", "{{ text }} " * 9, "task.prompt", f"context of {CONTEXT}"),
    ("no chat template", "task.chat_template", True, "task.chat_template", "no chat template"),
    *(
        (f"constraint: {name}", "search.constraints", value, f"search.constraints.{field}", words)
        for name, value, field, words in [
            (
                "no match",
                [{"matrices": ["conv"], "density": [1, 1]}],
                "0.matrices",
                "no matrix to prune matches",
            ),
            (
                "contradiction",
                [{"matrices": ["q_proj"], "density": [0.5, 1]}, {"matrices": ["0.*"], "density": [0, 0.4]}],
                "1",
                "together with search.constraints.0",
            ),
            ("lonely tie", [{"matrices": ["q_proj"], "tied": "layer"}], "0.tied", "ties nothing"),
            (
                "bounds crossed",
                [{"matrices": ["*"], "density": [0.5, 0.4]}],
                "0.density",
                "the least and the greatest",
            ),
            ("no demand", [{"matrices": ["*"]}], "0", "demands nothing"),
        ]
    ),
    (
        "more seeds than scorings",
        "search.seeds",
        [{"ranks": [1] * 14}] * 300,
        "search.max_evaluations",
        "must be at least",
    ),
    (
        "constraints above the target",
        "search.constraints",
        [{"matrices": ["*"], "density": [0.5, 1]}],
        "objective.share",
        "must be at least 0.5",
    ),
    (
        "a file too small",
        "objective",
        {"kind": "target_bytes", "size": "10 kB"},
        "objective.size",
        "(10,000 bytes)",
    ),
    (
        "a file too large",
        "objective",
        {"kind": "target_bytes", "size": "1 MB"},
        "objective.size",
        "less than the dense",
    ),
    (
        "a share too small",
        "objective",
        {"kind": "target_bytes", "share": 0.1},
        "objective.share",
        "must be at least",
    ),
    (
        "two sizes",
        "objective",
        {"kind": "target_bytes", "size": 9, "share": 0.5},
        "objective",
        "exactly one of size",
    ),
    (
        "two times",
        "objective",
        {"kind": "target_latency", "share": 0.5, "milliseconds": 3},
        "objective",
        "exactly one of share",
    ),
    (
        "seed without a file",
        "search.seeds",
        [{"path": "gone.json"}],
        "search.seeds.0.path",
        "no such file",
    ),
    (
        "seed outside",
        "search.seeds",
        [{"path": "/etc/hostname"}],
        "search.seeds.0.path",
        "outside",
    ),
    (
        "seed that is no JSON",
        "search.seeds",
        [{"path": "broken.jsonl"}],
        "search.seeds.0.path",
        "as JSON",
    ),
    (
        "seed without ranks",
        "search.seeds",
        [{"path": "model/config.json"}],
        "search.seeds.0.path",
        "must hold `ranks`",
    ),
    (
        "seed of another model",
        "search.seeds",
        [{"path": "ranks.json"}],
        "search.seeds.0.path",
        "names no rank of",
    ),
    (
        "seed of nothing",
        "search.seeds",
        [{}],
        "search.seeds.0",
        "exactly one of path and ranks",
    ),
    (
        "seed of another model",
        "search.seeds",
        [{"ranks": [3]}],
        "search.seeds.0.ranks",
        "of 14 matrices, got 1",
    ),
    (
        "seed of a wider model",
        "search.seeds",
        [{"ranks": [10_000] * 14}],
        "search.seeds.0.ranks",
        "is it of another model",
    ),
    ("too few records", "task.data.sizes.test", 1000, "task.data.sizes.test", "needs 1,000 records"),
]


@pytest.fixture(scope="module")
def root(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model and its records, and broken versions of both."""
    root = tmp_path_factory.mktemp("checked") / "root"
    shutil.copytree(tiny_root, root)
    _break_models(root, json.loads((root / "model" / "config.json").read_text()))
    _break_records(root)
    return root


@pytest.fixture
def job(tiny_job: Document) -> Document:
    """A spec that passes."""
    return tune(tiny_job)


@pytest.fixture(scope="module")
def application(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Application:
    data_dir = tmp_path_factory.mktemp("server") / "data"
    return build(Settings(data_dir=data_dir, roots=[root], requests_per_second=0), in_children=False)


@pytest.fixture(scope="module")
def rest(application: Application) -> Iterator[TestClient]:
    """The real service; it never gets to run a job, so Ray is never started."""
    with TestClient(create_app(application), base_url="http://127.0.0.1") as rest:
        yield rest


@pytest.mark.parametrize(
    ("place", "value", "field", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_rest_names_the_field(
    rest: TestClient, job: Document, place: str, value: Any, field: str, words: str
) -> None:
    response = rest.post("/v1/jobs", json=_changed(job, place, value))
    assert response.status_code == 422, response.text
    (error,) = response.json()["errors"]
    assert error["field"] == field
    assert any(word in error["detail"] for word in words.split("|")), error["detail"]
    assert "Traceback" not in response.text
    assert rest.get("/v1/jobs").json()["jobs"] == []


def test_generate_counts_the_tokens_it_will_write(rest: TestClient, job: Document) -> None:
    job["task"] |= {"kind": "generate", "max_new_tokens": CONTEXT}
    del job["task"]["choices"]
    (error,) = rest.post("/v1/jobs", json=job).json()["errors"]
    assert error["field"] == "task.prompt"
    assert f"with max_new_tokens {CONTEXT}" in error["detail"]


def test_options_of_a_record_may_be_absent(rest: TestClient, job: Document) -> None:
    job["task"]["choices"] = "options"
    (error,) = rest.post("/v1/jobs", json=job).json()["errors"]
    assert error["field"] == "task.choices"


def test_a_latency_of_experts_is_refused(
    rest: TestClient, root: Path, job: Document, tiny_root: Path, tiny_mixture: str
) -> None:
    shutil.copytree(tiny_root / tiny_mixture, root / "experts")
    job["model"]["path"] = "experts"
    job["objective"] = {"kind": "target_latency", "share": 0.8}
    (error,) = rest.post("/v1/jobs", json=job).json()["errors"]
    assert error["field"] == "objective"
    assert "a latency for a model with experts (model.layers.0.mlp.experts.0.gate_up)" in error["detail"]
    job["model"]["exclude"] = ["*.experts.*"]
    response = rest.post("/v1/estimates", json=job)
    assert response.status_code == 200, response.text


def test_what_is_right_passes(application: Application, job: Document) -> None:
    application._preflight(JobSpec.model_validate(job), None)


@pytest.mark.parametrize(
    ("place", "value", "field", "words"), [c[1:] for c in CASES[1::5]], ids=[c[0] for c in CASES[1::5]]
)
def test_the_command_line_exits_2_without_a_traceback(
    root: Path, tmp_path: Path, job: Document, place: str, value: Any, field: str, words: str
) -> None:
    file = root / "job.yaml"  # paths in a job file count from its own folder
    file.write_text(json.dumps(_changed(job, place, value)))
    done = CliRunner().invoke(main.app, ["run", str(file), "--data-dir", str(tmp_path / "data")])
    assert done.exit_code == 2, done.output
    assert f"{field}: " in done.stderr
    assert any(word in done.stderr for word in words.split("|")), done.stderr
    assert "Traceback" not in done.output


def _changed(spec: Document, place: str, value: Any) -> Document:
    document = deepcopy(spec)
    *above, key = place.split(".")
    inner = document
    for part in above:
        inner = inner.setdefault(part, {})
    inner[key] = value
    return document


def _break_models(root: Path, good: Document) -> None:
    weights = {"weight": torch.zeros(1)}
    configs: dict[str, Any] = {
        "remote": good | {"auto_map": {"AutoModelForCausalLM": "evil.Evil"}},
        "unknown": {"model_type": "frobnicator"},
        "vision": ViTConfig().to_dict(),
        "flat": good | {"num_hidden_layers": 0},
        "mute": good,
    }
    for name, values in configs.items():
        (root / name).mkdir()
        (root / name / "config.json").write_text(json.dumps(values))
        save_file(weights, root / name / "model.safetensors")
    for name in ("empty", "pickled", "damaged"):
        (root / name).mkdir()
    (root / "pickled" / "config.json").write_text(json.dumps(good))
    torch.save(weights, root / "pickled" / "pytorch_model.bin")
    (root / "damaged" / "config.json").write_text('{"model_type": ')
    save_file(weights, root / "damaged" / "model.safetensors")
    os.symlink("/etc", root / "link")
    (root / "fake.gguf").write_text("film")
    (root / "cut.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")


def _break_records(root: Path) -> None:
    (root / "folder.jsonl").mkdir()
    (root / "films.txt").write_text("film\n")
    (root / "broken.jsonl").write_text('{"text": "film", "label": "good"}\n{"text": film}\n')
    (root / "none.jsonl").write_text("\n")
    (root / "ragged.csv").write_text("text,label\nfilm, a good one,good\n")
    (root / "fake.parquet").write_text("PAR0")
    (root / "ranks.json").write_text('{"ranks": {"other.q_proj": 4}}')
