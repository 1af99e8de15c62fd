"""Paths of the server: the admin alone sees where its folders are."""

import pytest
from standardwebhooks import Webhook as Receiver
from starlette.testclient import TestClient

from ranksieve.api.http.app import create_app
from ranksieve.search.errors import InputError
from ranksieve.service.server.settings import Settings

ADMIN = {"Authorization": "Bearer s3cret"}
STREAM = {"Accept": "text/event-stream"}


@pytest.fixture
def served(build, tmp_path):
    """A server with a root, and its settings."""
    (tmp_path / "root").mkdir()
    settings = Settings(data_dir=tmp_path / "data", roots=[tmp_path / "root"], api_key="s3cret")
    with TestClient(create_app(build(settings)), base_url="http://127.0.0.1") as http:
        yield http, settings


@pytest.fixture
def alice(served):
    http, _ = served
    made = http.post("/v1/keys", json={"owner": "alice"}, headers=ADMIN).json()
    return {"Authorization": f"Bearer {made['secret']}"}


def answers(http, job_id, headers):
    """Everything that is told of a job."""
    routes = ("", "/events", "/candidates", "/exports", "/artifacts")
    texts = [http.get(f"/v1/jobs/{job_id}{route}", headers=headers).text for route in routes]
    texts.append(http.get(f"/v1/jobs/{job_id}/events", headers={**headers, **STREAM}).text)
    return "\n".join([http.get("/v1/jobs", headers=headers).text, *texts])


def ended(http, spec, headers):
    job_id = http.post("/v1/jobs", json=spec, headers=headers).json()["id"]
    http.get(f"/v1/jobs/{job_id}/events", headers={**headers, **STREAM})  # ends with the job
    return job_id


def test_a_result_is_told_without_the_servers_folders(served, alice, spec, pipeline, tmp_path):
    http, settings = served
    pipeline.result["artifact"] = str(settings.jobs_dir / "7" / "artifacts")

    job_id = ended(http, spec, alice)

    assert str(tmp_path) not in answers(http, job_id, alice)
    shown = http.get(f"/v1/jobs/{job_id}", headers=alice).json()
    assert shown["result"]["artifact"] == "jobs/7/artifacts"
    assert http.get(f"/v1/jobs/{job_id}", headers=ADMIN).json()["result"] == pipeline.result


def test_a_failure_is_told_without_the_servers_folders(served, alice, spec, pipeline, tmp_path):
    http, settings = served
    file = settings.roots[0] / "tiny" / "config.json"
    pipeline.failure = InputError("model.path", f"{file} is damaged; the roots are {settings.roots[0]}")

    job_id = ended(http, spec, alice)

    assert str(tmp_path) not in answers(http, job_id, alice)
    error = http.get(f"/v1/jobs/{job_id}", headers=alice).json()["error"]
    assert error["message"] == "tiny/config.json is damaged; the roots are root"
    assert str(file) in answers(http, job_id, ADMIN)


def test_a_refusal_is_told_without_the_servers_folders(served, alice, spec, preflight, tmp_path):
    http, settings = served
    preflight.error = InputError("model.path", f"no such file: {settings.data_dir}/x")
    spec["model"]["path"] = f"{settings.roots[0]}/mine"

    refused = http.post("/v1/jobs", json=spec, headers=alice)
    preflight.error = None
    made = http.post("/v1/jobs", json=spec, headers=alice)

    assert refused.json()["errors"][0]["detail"] == "no such file: x"
    assert str(tmp_path) not in refused.text
    assert made.json()["spec"]["model"]["path"] == spec["model"]["path"]  # what its owner wrote


def test_a_webhook_is_told_without_the_servers_folders(served, alice, spec, pipeline, endpoint, tmp_path):
    http, settings = served
    pipeline.failure = InputError("model.path", f"{settings.roots[0] / 'tiny'} is damaged")
    hook = http.post("/v1/webhooks", json={"url": "https://hooks.example.com/"}, headers=alice).json()

    ended(http, spec | {"name": f"{tmp_path}/mine"}, alice)
    endpoint.wait_for(1)

    [(_, headers, body)] = endpoint.received
    message = Receiver(hook["secret"]).verify(body, headers)["data"]
    assert message["error"]["message"] == "tiny is damaged"
    assert message["name"] == f"{tmp_path}/mine"  # what its owner wrote


def test_models_are_told_without_the_servers_folders(build, spec, tmp_path):
    roots = [tmp_path / "root", tmp_path / "other"]
    for folder in (roots[0] / "tiny", roots[1] / "tiny", roots[1] / "large"):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").touch()
    settings = Settings(data_dir=tmp_path / "data", roots=roots, api_key="s3cret")
    with TestClient(create_app(build(settings)), base_url="http://127.0.0.1") as http:
        made = http.post("/v1/keys", json={"owner": "alice"}, headers=ADMIN).json()
        alice = {"Authorization": f"Bearer {made['secret']}"}
        listed, whole = (http.get("/v1/models", headers=key) for key in (alice, ADMIN))

    assert str(tmp_path) not in listed.text
    assert [one["model"] for one in listed.json()["models"]] == [{"path": "large"}, {"path": "tiny"}]
    assert [one["location"] for one in whole.json()["models"]] == [
        str(roots[1] / "large"), str(roots[1] / "tiny"), str(roots[0] / "tiny"),
    ]  # fmt: skip
