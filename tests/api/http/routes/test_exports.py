"""More models of a finished job over REST, and through the client."""

import pytest

from ranksieve.api.client.connection import ApiError


def test_a_size_is_exported_and_downloaded(http, client, searched, tmp_path):
    response = http.post(f"/v1/jobs/{searched['id']}/exports", json={"share": 0.5})

    assert response.status_code == 202
    made = response.json()
    assert response.headers["location"] == f"/v1/jobs/{made['id']}"
    assert (made["parent"], made["asked"], made["kept_share"]) == (searched["id"], {"share": 0.5}, 0.41)
    events = [event["type"] for event in client.events(made["id"])]
    assert events[-1] == "job.state"
    [listed] = client.exports(searched["id"])
    assert (listed["id"], listed["state"], listed["result"]["metric_name"]) == (
        made["id"],
        "succeeded",
        "accuracy",
    )
    assert [path.name for path in client.download(made["id"], tmp_path)] == ["config.json", "vocab.txt"]


def test_one_candidate_is_exported_once(client, searched):
    [row] = client.candidates(searched["id"], pareto=True)

    made = client.export(searched["id"], candidate=row["id"])

    assert made["candidate"] == row["id"]
    assert client.export(searched["id"], share=0.41)["id"] == made["id"]


def test_exports_are_not_in_the_list_of_jobs(client, searched):
    made = client.export(searched["id"], share=0.5)

    assert [job["id"] for job in client.jobs()] == [searched["id"]]
    assert client.job(made["id"])["spec"] == searched["spec"]
    assert client.job(made["id"])["parent"] == searched["id"]
    assert client.job(searched["id"])["parent"] is None


def test_a_job_is_deleted_with_its_exports(client, searched, settings):
    made = client.export(searched["id"], share=0.5)
    for _ in client.events(made["id"]):
        pass

    client.delete(searched["id"])

    with pytest.raises(ApiError, match="there is no job"):
        client.job(made["id"])
    assert not (settings.jobs_dir / made["id"]).exists()


def test_a_job_whose_export_runs_is_not_deleted(client, searched, pipeline):
    pipeline.go.clear()
    made = client.export(searched["id"], share=0.5)

    with pytest.raises(ApiError, match=f"job {made['id']} is .*; cancel it"):
        client.delete(searched["id"])

    assert client.job(searched["id"])["state"] == "succeeded"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "share"),
        ({"share": 0.5, "candidate": 1}, "share"),
        ({"share": 0}, "share"),
        ({"share": 1.5}, "share"),
        ({"candidate": 0}, "candidate"),
        ({"size": 3}, "size"),
        ({"share": 0.2}, "share"),  # nothing so small was scored
    ],
)
def test_what_cannot_be_asked_for(http, searched, body, field):
    response = http.post(f"/v1/jobs/{searched['id']}/exports", json=body)

    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert [error["field"] for error in response.json()["errors"]] == [field]


def test_a_candidate_that_failed_or_is_not_there(http, client, searched):
    failed = next(row for row in client.candidates(searched["id"]) if row["failure"])
    url = f"/v1/jobs/{searched['id']}/exports"

    refused = http.post(url, json={"candidate": failed["id"]})
    assert (refused.status_code, "not finite" in refused.json()["detail"]) == (422, True)
    assert http.post(url, json={"candidate": 10**6}).status_code == 404
    assert http.post("/v1/jobs/nope/exports", json={"share": 0.5}).status_code == 404
    assert http.get("/v1/jobs/nope/exports").status_code == 404


def test_a_job_that_has_not_succeeded_has_no_exports(http, client, spec, pipeline):
    pipeline.go.clear()
    job = client.submit(spec)

    refused = http.post(f"/v1/jobs/{job['id']}/exports", json={"share": 0.5})

    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert client.exports(job["id"]) == []
