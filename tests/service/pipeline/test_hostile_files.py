"""Files that take a checking process down, against the real service; the server answers and goes on."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from ranksieve.api.http.app import create_app
from ranksieve.service.pipeline.checking import check_job
from ranksieve.service.server.keys import Scope
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.service.wiring import build
from ranksieve.workers.machine import limited

Document = dict[str, Any]

NAMING: dict[str, Callable[[str], Document]] = {
    "model": lambda path: {"model": path},
    "model.path": lambda path: {"model": {"path": path}},
    "model.hub": lambda path: {"model": {"hub": path}},
    "model.adapter": lambda path: {"model": {"path": "model", "adapter": path}},
    "task.data.source.path": lambda path: {"source": {"path": path}},
    "task.data.source.hub.id": lambda path: {"source": {"hub": {"id": path}}},
    "task.data.files.test.path": lambda path: {"files": {"test": {"path": path}}},
    "task.data.files.test.hub.id": lambda path: {"files": {"test": {"hub": {"id": path}}}},
    "search.seeds.0.path": lambda path: {"search": {"seeds": [{"path": path}]}},
    "parent.job": lambda path: {"parent": {"job": path.partition("/artifacts")[0].rpartition("/")[2]}},
}
"""Every field of a job file that names a file, a repository or a job."""

PLAIN = {
    *(f"model.{name}" for name in ("revision", "include.0", "exclude.0")),
    *(f"task.{name}" for name in ("prompt", "answer", "choices", "choices.x", "choices.0", "delimiter", "data.group")),
    *(f"task.data.{of}.hub.{name}" for of in ("source", "files.test") for name in ("config", "split", "revision")),
    *("name", "labels.x", "objective.size", "search.constraints.0.matrices.0"),
}  # fmt: skip
"""Every other field with a text."""

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
    response = rest.post("/v1/estimates", json=job)
    assert response.status_code == 422, response.text
    assert rest.get("/healthz").json()["status"] == "ok"
    (error,) = response.json()["errors"]
    return dict(error)


def test_a_tokenizer_that_multiplies_texts_is_refused(
    rest: TestClient, root: Path, tiny_job: Document, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limited, "CPU_S", 60)  # memory ends it first, on a slow machine too
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


def texts_of(schema: Document, definitions: Document, above: tuple[str, ...] = ()) -> Iterator[str]:
    """The fields of a schema that may hold any text."""
    parts = [(above, one) for kind in ("anyOf", "oneOf", "allOf") for one in schema.get(kind, ())]
    if "$ref" in schema:
        parts.append((above, definitions[schema["$ref"].rpartition("/")[2]]))
    parts += [((*above, name), one) for name, one in schema.get("properties", {}).items()]
    if isinstance(values := schema.get("additionalProperties"), dict):
        key = schema.get("propertyNames", {}).get("enum", ["x"])[-1]
        parts.append(((*above, key), values))
    if "items" in schema:
        parts.append(((*above, "0"), schema["items"]))
    if schema.get("type") == "string" and not {"enum", "const"} & schema.keys():
        yield ".".join(above)
    for path, part in parts:
        yield from texts_of(part, definitions, path)


def test_every_text_of_a_job_file_is_known_to_name_something_or_not() -> None:
    schema = JobSpec.model_json_schema()
    assert set(texts_of(schema, schema["$defs"])) == {*NAMING, *PLAIN}


def test_no_answer_tells_of_another_owners_job(rest: TestClient, tiny_job: Document, tmp_path: Path) -> None:
    application = rest.app.state.application  # type: ignore[attr-defined]
    reads = [path for path, methods in rest.app.openapi()["paths"].items() if "get" in methods]  # type: ignore[attr-defined]
    keys = {owner: application.store.keys.create(owner, Scope.SUBMIT)[1] for owner in ("alice", "bob")}
    alice, bob = ({"Authorization": f"Bearer {keys[owner]}", "X-Request-ID": "x"} for owner in keys)
    application.controller.stop()  # the job only has to be there
    lists = {path: rest.get(path, headers=bob).text for path in reads if "{" not in path}
    there = rest.post("/v1/jobs", json=tiny_job, headers=alice).json()["id"]
    hook = rest.post("/v1/webhooks", json={"url": "https://hooks.example.com/"}, headers=alice).json()["id"]
    gone, no_hook = (id[:-1] + ("0" if id[-1] != "0" else "1") for id in (there, hook))
    artifacts = tmp_path / "data" / "jobs" / there / "artifacts" / "model"
    artifacts.mkdir(parents=True)
    (artifacts / "ranksieve.json").write_text('{"ranks": {}}')

    def answers(job_id: str, hook_id: str) -> Iterator[str]:
        for route in reads:
            path = route.format(job_id=job_id, webhook_id=hook_id, name="model/ranksieve.json")
            for accept in ("application/json", "text/event-stream"):
                if path != route:
                    response = rest.get(path, headers=bob | {"Accept": accept})
                    assert response.status_code == 404
                    yield f"{path}: {response.text}".replace(job_id, "…").replace(hook_id, "…")
        for path in (f"jobs/{job_id}/artifacts/model", f"jobs/{job_id}/artifacts/model/ranksieve.json"):
            for named in (path, f"../data/{path}", f"{tmp_path}/data/{path}"):
                for field, changes in NAMING.items():
                    job = json.loads(json.dumps(tiny_job))
                    (job["task"]["data"] if field.startswith("task") else job).update(changes(named))
                    response = rest.post("/v1/estimates", json=job, headers=bob)
                    assert response.status_code == 422
                    yield response.text.replace(job_id, "…")

    assert list(answers(there, hook)) == list(answers(gone, no_hook))
    assert {path: rest.get(path, headers=bob).text for path in lists} == lists


def test_a_child_checks_as_this_process_does(root: Path, tmp_path: Path, tiny_job: Document) -> None:
    del tiny_job["policy"]
    settings = Settings(data_dir=tmp_path / "data", roots=[root])
    spec = JobSpec.model_validate(tiny_job)
    assert limited.run_limited(check_job, settings.without_secrets(), spec) == check_job(settings, spec)
