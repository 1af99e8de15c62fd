"""Jobs over REST: the whole life, lists, cancel, and every wrong spec."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from starlette.testclient import TestClient

from ranksieve.api.http.places import OWNER_PLACES
from ranksieve.search.errors import InputError, ScoringError
from ranksieve.service.job.events import EventType


def _end(http: TestClient, job_id: str) -> dict[str, Any]:
    """Reads a job's stream to its end, then the job."""
    with http.stream("GET", f"/v1/jobs/{job_id}/events", headers={"Accept": "text/event-stream"}) as response:
        for _ in response.iter_bytes():
            pass
    job: dict[str, Any] = http.get(f"/v1/jobs/{job_id}").json()
    return job


def test_submit_answers_at_once_and_says_where_the_job_is(http, spec):
    response = http.post("/v1/jobs", json=spec)

    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["name"] == "snippets"
    assert job["spec"]["effort"] == "normal"  # defaults are written out


def test_slow_checks_of_job_files_keep_nobody_else_waiting(http, spec, preflight):
    preflight.go.clear()
    with ThreadPoolExecutor(60) as clients:
        asked = [clients.submit(http.post, "/v1/estimates", json=spec) for _ in range(60)]
        for _ in range(OWNER_PLACES):
            preflight.waiting.acquire()
        assert http.get("/healthz").status_code == 200
        assert http.get("/v1/jobs").json()["jobs"] == []
        assert not preflight.waiting.acquire(timeout=0.5)
        preflight.go.set()
        assert {one.result().status_code for one in asked} == {200}


def test_an_estimate_tells_what_the_job_needs_and_creates_nothing(http, spec, estimate):
    response = http.post("/v1/estimates", json=spec)

    assert response.status_code == 200
    assert response.json() == estimate
    assert "location" not in response.headers
    assert http.get("/v1/jobs").json()["jobs"] == []


def test_a_job_succeeds_with_its_result(http, spec, result):
    job_id = http.post("/v1/jobs", json=spec).json()["id"]

    job = _end(http, job_id)

    assert job["state"] == "succeeded"
    assert job["result"] == result
    assert job["error"] is None
    assert job["created_at"] <= job["started_at"] <= job["finished_at"]


def test_a_failed_job_says_why(http, spec, pipeline):
    pipeline.failure = ScoringError("17 of 20 candidates failed")

    job = _end(http, http.post("/v1/jobs", json=spec).json()["id"])

    assert job["state"] == "failed"
    assert job["error"] == {"code": "scoring", "message": "17 of 20 candidates failed", "field": None}


def test_jobs_are_listed_newest_first_by_page_and_state(http, spec, pipeline):
    pipeline.go.clear()
    ids = [http.post("/v1/jobs", json=spec).json()["id"] for _ in range(3)]
    pipeline.searching.wait()

    first = http.get("/v1/jobs", params={"limit": 2}).json()
    second = http.get("/v1/jobs", params={"limit": 2, "after": first["next"]}).json()
    queued = http.get("/v1/jobs", params={"state": "queued"}).json()
    both = http.get("/v1/jobs", params={"state": ["queued", "searching"]}).json()

    assert [job["id"] for job in first["jobs"]] == [ids[2], ids[1]]
    assert [job["id"] for job in second["jobs"]] == [ids[0]]
    assert second["next"] is None
    assert [job["id"] for job in queued["jobs"]] == [ids[2], ids[1]]
    assert [job["id"] for job in both["jobs"]] == ids[::-1]
    assert "spec" not in first["jobs"][0]


def test_a_list_tells_the_phase_and_what_came_of_jobs(http, spec, pipeline, application):
    done = http.post("/v1/jobs", json={**spec, "name": "done"}).json()["id"]
    _end(http, done)
    pipeline.go.clear()
    pipeline.searching.clear()
    running = http.post("/v1/jobs", json={**spec, "name": "running"}).json()["id"]
    assert pipeline.searching.wait(60)
    store, data = application.store, {"phase": "search", "done": 1, "total": 4}
    store.runs.append_event(running, EventType.PHASE_PROGRESS, data, epoch=store.job(running).epoch)

    listed = http.get("/v1/jobs").json()["jobs"]

    assert [(one["progress"], one["outcome"]) for one in listed] == [
        ({"phase": "search", "done": 1, "total": 4, "left_s": None}, None),
        (
            None,
            {
                "kept_block_params": 0.4,
                "metric_name": "accuracy",
                "split": "test",
                "drop_points": 0.7,
                "promise_held": True,
            },
        ),
    ]
    assert [one["id"] for one in http.get("/v1/jobs?search=RUN").json()["jobs"]] == [running]


def test_cancel_ends_a_running_job_and_a_queued_one(http, spec, pipeline):
    pipeline.go.clear()
    running, queued = (http.post("/v1/jobs", json=spec).json()["id"] for _ in range(2))
    pipeline.searching.wait()

    assert http.post(f"/v1/jobs/{queued}/cancel").json()["state"] == "cancelled"
    assert http.post(f"/v1/jobs/{running}/cancel").json()["cancel_requested"] is True
    assert _end(http, running)["state"] == "cancelled"


def test_a_job_is_paused_resumed_and_stopped(http, client, spec, pipeline):
    pipeline.go.clear()
    url = f"/v1/jobs/{client.submit(spec)['id']}"
    pipeline.searching.wait()

    assert http.post(f"{url}/pause").json()["pause_requested"] is True
    _reach(client, url, "paused")
    for _ in range(2):
        assert http.post(f"{url}/pause").json()["state"] == "paused"
    pipeline.searching.clear()
    assert http.post(f"{url}/resume").json()["state"] == "queued"
    pipeline.searching.wait()
    assert http.post(f"{url}/stop").json()["state"] == "stopping"
    assert http.post(f"{url}/pause").status_code == 409  # it is stopping, or has ended
    assert _end(http, url.rsplit("/", 1)[1])["state"] == "succeeded"


def test_a_job_is_changed(http, client, spec, pipeline):
    pipeline.go.clear()
    url = f"/v1/jobs/{client.submit(spec)['id']}"
    pipeline.searching.wait()

    changed = http.patch(url, json={"name": "new", "priority": 5})

    assert changed.status_code == 200
    assert (changed.json()["name"], changed.json()["priority"]) == ("new", 5)
    assert http.patch(url, json={"labels": {"team": "nlp"}}).status_code == 200
    for wrong in (
        {"model": {}},
        {"priority": 101},
        {"name": None},
        {"labels": {str(number): "" for number in range(101)}},
        {"labels": {"team": "x" * 201}},
    ):
        answer = http.patch(url, json=wrong)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"].startswith(next(iter(wrong)))
    job = http.get(url).json()
    assert (job["name"], job["labels"], job["spec"]["effort"]) == ("new", {"team": "nlp"}, "normal")
    assert http.patch("/v1/jobs/nope", json={}).status_code == 404


def test_a_running_job_is_given_other_actors_until_it_has_ended(http, client, spec, pipeline):
    pipeline.go.clear()
    id = client.submit(spec)["id"]
    pipeline.searching.wait()

    assert client.change(id, {"actors": 3})["spec"]["resources"]["actors"] == 3
    assert http.patch(f"/v1/jobs/{id}", json={"actors": 0}).status_code == 422
    assert client.job(id)["state"] == "searching"
    pipeline.go.set()
    assert _end(http, id)["state"] == "succeeded"
    refused = http.patch(f"/v1/jobs/{id}", json={"actors": 4})
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")


def _reach(client, url, state):
    """Follow a job until it is in a state."""
    for event in client.events(url.rsplit("/", 1)[1]):
        if event["data"].get("state") == state:
            return


@pytest.mark.parametrize("action", ["pause", "resume", "stop", "cancel"])
def test_nothing_is_asked_of_a_job_that_has_ended(shared, shared_job, action):
    response = shared.post(f"/v1/jobs/{shared_job['id']}/{action}")

    assert response.status_code == 409
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.json()["code"], response.json()["title"]) == ("conflict", "Conflict")
    assert shared_job["id"] in response.json()["detail"]
    assert shared.post(f"/v1/jobs/nope/{action}").status_code == 404


def test_an_unknown_job_is_a_problem_document(shared):
    for path in ("", "/events", "/generations", "/candidates", "/artifacts", "/artifacts/config.json"):
        response = shared.get(f"/v1/jobs/nope{path}")
        assert response.status_code == 404
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["instance"] == f"/v1/jobs/nope{path}"


def test_a_bad_spec_is_refused_with_its_field(shared, bad_spec):
    document, field = bad_spec
    before = shared.get("/v1/jobs").json()

    response, estimated = (shared.post(f"/v1/{path}", json=document) for path in ("jobs", "estimates"))

    assert response.status_code == estimated.status_code == 422
    assert response.json()["errors"] == estimated.json()["errors"]
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert [error["field"] for error in problem["errors"]] == [field]
    assert [error["pointer"] for error in problem["errors"]] == ["/" + field.replace(".", "/")]
    assert field in problem["detail"]
    assert shared.get("/v1/jobs").json() == before


def test_what_preflight_refuses_looks_the_same(http, spec, preflight):
    preflight.error = InputError("task.data.source.path", "no such file: /data/reviews.jsonl")

    response = http.post("/v1/jobs", json=spec)

    assert response.status_code == http.post("/v1/estimates", json=spec).status_code == 422
    assert response.json()["errors"] == [
        {
            "field": "task.data.source.path",
            "pointer": "/task/data/source/path",
            "detail": "no such file: /data/reviews.jsonl",
        }
    ]


def test_a_wrong_parameter_is_named(shared):
    response = shared.get("/v1/jobs", params={"limit": 0})

    assert response.status_code == 422
    [error] = response.json()["errors"]
    assert error["field"] == "limit"
    assert "pointer" not in error


def test_a_submission_sent_again_answers_the_same_job(http, spec, preflight):
    named = {"Idempotency-Key": "nightly 7"}
    first = http.post("/v1/jobs", json=spec, headers=named)
    preflight.error = InputError("model.path", "is gone by now")

    again = http.post("/v1/jobs", json=spec, headers=named)

    assert again.status_code == first.status_code == 202
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["location"] == first.headers["location"]
    assert len(http.get("/v1/jobs").json()["jobs"]) == 1
    other = http.post("/v1/jobs", json={**spec, "name": "other"}, headers=named)
    assert other.status_code == 409
    assert first.json()["id"] in other.json()["detail"]


def test_a_job_that_did_not_change_is_not_sent_again(http, spec, pipeline):
    pipeline.go.clear()
    url = f"/v1/jobs/{http.post('/v1/jobs', json=spec).json()['id']}"
    pipeline.searching.wait()
    first = http.get(url)
    tag = first.headers["etag"]

    for held in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = http.get(url, headers={"If-None-Match": held})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert http.get(url, headers={"If-None-Match": '"other"'}).json() == first.json()
    http.post(f"{url}/cancel")
    changed = http.get(url, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag


@pytest.mark.parametrize(
    "params",
    [
        {"label": "team"},
        {"label": ":nlp"},
        {"label": "team:\0"},
        {"after": "\0"},
    ],
)
def test_a_filter_that_cannot_be_is_named(shared, params):
    response = shared.get("/v1/jobs", params=params)

    assert response.status_code == 422
    assert response.json()["errors"][0]["field"].startswith(next(iter(params)))


@pytest.mark.parametrize("path", ["events?after={}", "generations?after={}", "candidates?generation={}"])
def test_a_number_no_database_holds_is_refused(shared, shared_job, path):
    assert shared.get(f"/v1/jobs/{shared_job['id']}/{path.format(2**31 - 1)}").status_code == 200
    assert shared.get(f"/v1/jobs/{shared_job['id']}/{path.format(10**30)}").status_code == 422


def test_a_job_that_has_ended_is_deleted_with_its_files(http, application, done):
    url = f"/v1/jobs/{done['id']}"
    folder = application.settings.jobs_dir / done["id"]
    assert folder.is_dir()

    assert http.delete(url).status_code == 204

    assert not folder.exists()
    assert http.get(url).status_code == http.delete(url).status_code == 404
    assert http.get("/v1/jobs").json()["jobs"] == []


def test_a_job_that_runs_is_not_deleted(http, spec, pipeline, application):
    pipeline.go.clear()
    id = http.post("/v1/jobs", json=spec).json()["id"]
    pipeline.searching.wait()

    response = http.delete(f"/v1/jobs/{id}")

    assert response.status_code == 409
    assert "cancel it before" in response.json()["detail"]
    assert (application.settings.jobs_dir / id).is_dir()


def test_jobs_have_all_labels_that_are_asked_for(http, spec):
    long = "x" * 200
    labels = ({"a": "2", "b:c": "d", long: long}, {"a": "2"}, {})
    first, second, _ = (http.post("/v1/jobs", json={**spec, "labels": one}).json()["id"] for one in labels)

    def found(*labels: str) -> list[str]:
        return [one["id"] for one in http.get("/v1/jobs", params={"label": list(labels)}).json()["jobs"]]

    assert found("a:2") == [second, first]
    assert found("a:2", "b:c:d", f"{long}:{long}") == [first]
    assert found("a:1", "a:2") == found("a:2", "a:1") == found("a:") == []


def test_a_job_has_the_sizes_and_resources_that_its_checks_filled_in(http, spec):
    spec["task"]["data"]["sizes"] = {"search": 40}
    spec.pop("resources", None)

    job = http.post("/v1/jobs", json=spec).json()["spec"]

    assert job["task"]["data"]["sizes"] == {"calibration": 256, "search": 40, "confirm": 512, "test": 1000}
    assert (job["resources"]["actors"], job["resources"]["gpus_per_actor"]) == (2, 0)
