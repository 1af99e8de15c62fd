"""Artifacts over REST, and nothing but artifacts."""

import pytest


def test_files_are_listed_and_downloaded(http, done):
    url = f"/v1/jobs/{done['id']}/artifacts"

    assert http.get(url).json()["artifacts"] == [
        {"name": "config.json", "bytes": 17},
        {"name": "tokenizer/vocab.txt", "bytes": 4},
    ]
    response = http.get(f"{url}/tokenizer/vocab.txt")
    assert response.text == "a\nb\n"
    assert response.headers["content-disposition"] == 'attachment; filename="vocab.txt"'
    assert response.headers["x-content-type-options"] == "nosniff"


def test_a_job_without_export_has_no_files(http, spec, pipeline):
    pipeline.go.clear()
    job_id = http.post("/v1/jobs", json=spec).json()["id"]

    assert http.get(f"/v1/jobs/{job_id}/artifacts").json() == {"artifacts": []}


@pytest.mark.parametrize(
    "name",
    [
        "../../../ranksieve.db",
        "..%2f..%2f..%2franksieve.db",
        "%2e%2e/%2e%2e/%2e%2e/ranksieve.db",
        "..%5c..%5cranksieve.db",
        "tokenizer/../../../../ranksieve.db",
        "tokenizer/..%2fconfig.json",
        "%2fetc%2fpasswd",
        "/etc/passwd",
        "link.db",
        "tokenizer",
        "config.json%00",
        "",
        "nope",
    ],
)
def test_no_name_leads_out_of_the_folder(http, done, application, name):
    folder = application.artifacts_dir(done["id"])
    (folder / "link.db").symlink_to(application.settings.data_dir / "ranksieve.db")

    response = http.get(f"/v1/jobs/{done['id']}/artifacts/{name}")

    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"
