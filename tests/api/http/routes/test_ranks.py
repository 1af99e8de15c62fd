"""Ranks of the result and of candidates."""

import pytest


def test_the_ranks_of_the_result_are_a_table_of_layers(shared, shared_job):
    assert shared.get(f"/v1/jobs/{shared_job['id']}/ranks").json() == {
        "layers": [0, 1],
        "matrices": ["q_proj"],
        "ranks": [[16], [-1]],
        "densities": [[0.5], [1.0]],
        "dense_params": [[4096], [4096]],
    }


def test_the_ranks_of_a_candidate(shared, shared_job):
    url = f"/v1/jobs/{shared_job['id']}"
    second = shared.get(f"{url}/candidates").json()["candidates"][1]["id"]

    assert shared.get(f"{url}/ranks?candidate={second}").json()["ranks"] == [[16], [32]]


@pytest.mark.parametrize("candidate", [0, 999_999])
def test_a_candidate_that_is_not_there(shared, shared_job, candidate):
    response = shared.get(f"/v1/jobs/{shared_job['id']}/ranks?candidate={candidate}")

    assert response.status_code == 404
    assert f"no candidate {candidate}" in response.json()["detail"]


def test_a_job_that_has_not_come_so_far(http, spec, pipeline):
    pipeline.go.clear()
    job_id, queued = (http.post("/v1/jobs", json=spec).json()["id"] for _ in range(2))
    assert pipeline.searching.wait(60)

    assert "no result" in http.get(f"/v1/jobs/{job_id}/ranks").json()["detail"]
    [first, _] = http.get(f"/v1/jobs/{job_id}/candidates").json()["candidates"]
    assert http.get(f"/v1/jobs/{job_id}/ranks?candidate={first['id']}").status_code == 200
    assert "no matrices yet" in http.get(f"/v1/jobs/{queued}/ranks").json()["detail"]
