"""Files that take a checking process down, against the real service; the server answers and goes on."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ranksieve.api.http.app import create_app
from ranksieve.service.pipeline.steps import check_job
from ranksieve.service.server.keys import Scope
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.service.wiring import build
from ranksieve.workers.machine import limited

Document = dict[str, Any]

FIELDS = [
    ("model", lambda path: {"path": path}),
    ("model", lambda path: {"gguf": path}),
    ("task.data.source", lambda path: {"path": path}),
    ("task.data.files", lambda path: {"test": {"path": path}}),
    ("search", lambda path: {"seeds": [{"path": path}]}),
    ("parent", lambda path: {"job": path.partition("/artifacts")[0].rpartition("/")[2]}),
]
"""Every field of a job file that names a file or a job."""

LOOP = "{% for a in range(99999) %}" * 2 + "{% endfor %}" * 2


@pytest.fixture
def root(tiny_root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_root, tmp_path / "root"))


@pytest.fixture
def rest(
    root: Path, tmp_path: Path, tiny_job: Document, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    del tiny_job["policy"]  # a child has the usual constants
    monkeypatch.setattr(limited, "CPU_S", 2)
    monkeypatch.setattr(limited, "MOST_BYTES", 2**29)
    monkeypatch.setattr(limited, "LEAST_BYTES", 2**29)
    application = build(Settings(data_dir=tmp_path / "data", roots=[root], requests_per_second=0))
    with TestClient(create_app(application), base_url="http://127.0.0.1") as rest:
        yield rest


def refusal(rest: TestClient, job: Document) -> Document:
    response = rest.post("/v1/jobs", params={"dry_run": True}, json=job)
    assert response.status_code == 422, response.text
    assert rest.get("/healthz").json()["status"] == "ok"
    (error,) = response.json()["errors"]
    return dict(error)


def test_a_tokenizer_that_multiplies_texts_is_refused(
    rest: TestClient, root: Path, tiny_job: Document
) -> None:
    file = root / "model" / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    grow = {"type": "Replace", "pattern": {"String": "f"}, "content": "f" * 50}
    tokenizer["normalizer"] = {"type": "Sequence", "normalizers": [grow] * 6}
    file.write_text(json.dumps(tokenizer))
    error = refusal(rest, tiny_job)
    assert error["field"] == "model"
    assert "tokenizing 120 records takes more than 0.5 GiB of memory" in error["detail"]


def test_a_chat_template_that_loops_is_refused(rest: TestClient, root: Path, tiny_job: Document) -> None:
    (root / "model" / "chat_template.jinja").write_text(LOOP)
    tiny_job["task"]["chat_template"] = True
    error = refusal(rest, tiny_job)
    assert error["field"] == "task.chat_template"
    assert "rendering the model's chat template takes more than 2 s of processor time" in error["detail"]


def test_no_answer_tells_of_another_owners_job(rest: TestClient, tiny_job: Document, tmp_path: Path) -> None:
    application = rest.app.state.application  # type: ignore[attr-defined]
    keys = {owner: application.store.keys.create(owner, Scope.SUBMIT)[1] for owner in ("alice", "bob")}
    alice, bob = ({"Authorization": f"Bearer {keys[owner]}", "X-Request-ID": "x"} for owner in keys)
    application.controller.stop()  # the job only has to be there
    there = rest.post("/v1/jobs", json=tiny_job, headers=alice).json()["id"]
    gone = there[:-1] + ("0" if there[-1] != "0" else "1")
    artifacts = tmp_path / "data" / "jobs" / there / "artifacts" / "model"
    artifacts.mkdir(parents=True)
    (artifacts / "ranksieve.json").write_text('{"ranks": {}}')

    def answers(job_id: str) -> Iterator[str]:
        for route, methods in rest.app.openapi()["paths"].items():  # type: ignore[attr-defined]
            if "{job_id}" in route and "get" in methods:
                path = route.replace("{job_id}", job_id).replace("{candidate_id}", "1")
                yield f"{path}: {rest.get(path, headers=bob).text}".replace(job_id, "…")
        for path in (f"jobs/{job_id}/artifacts/model", f"jobs/{job_id}/artifacts/model/ranksieve.json"):
            for named in (path, f"../data/{path}", f"{tmp_path}/data/{path}"):
                for field, value in FIELDS:
                    *above, key = field.split(".")
                    job = json.loads(json.dumps(tiny_job))
                    inner = job["task"]["data"] if above else job
                    inner[key] = value(named)
                    response = rest.post("/v1/jobs", params={"dry_run": True}, json=job, headers=bob)
                    assert response.status_code == 422
                    yield response.text.replace(job_id, "…")

    assert list(answers(there)) == list(answers(gone))


def test_a_child_checks_as_this_process_does(root: Path, tmp_path: Path, tiny_job: Document) -> None:
    del tiny_job["policy"]
    settings = Settings(data_dir=tmp_path / "data", roots=[root])
    spec = JobSpec.model_validate(tiny_job)
    assert limited.run_limited(check_job, settings.without_secrets(), spec) == check_job(settings, spec)
