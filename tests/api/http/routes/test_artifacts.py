"""Artifacts over REST, and nothing but artifacts."""

import hashlib

import pytest


def test_files_are_listed_and_downloaded(shared, shared_job):
    url = f"/v1/jobs/{shared_job['id']}/artifacts"

    assert shared.get(url).json()["artifacts"] == [
        {"name": "config.json", "bytes": 17},
        {"name": "tokenizer/vocab.txt", "bytes": 4},
    ]
    response = shared.get(f"{url}/tokenizer/vocab.txt")
    assert response.text == "a\nb\n"
    assert response.headers["content-disposition"] == 'attachment; filename="vocab.txt"'
    assert response.headers["x-content-type-options"] == "nosniff"


def test_a_file_is_tagged_with_its_digest_and_comes_in_parts(shared, shared_job):
    url = f"/v1/jobs/{shared_job['id']}/artifacts/config.json"
    whole = shared.get(url)
    tag = f'"{hashlib.sha256(whole.content).hexdigest()}"'

    assert whole.headers["etag"] == tag
    part = shared.get(url, headers={"Range": "bytes=2-6", "If-Range": tag})
    assert (part.status_code, part.content) == (206, whole.content[2:7])
    assert part.headers["content-range"] == f"bytes 2-6/{len(whole.content)}"
    other = shared.get(url, headers={"Range": "bytes=2-6", "If-Range": '"other"'})
    assert (other.status_code, other.content) == (200, whole.content)
    held = shared.get(url, headers={"If-None-Match": tag})
    assert (held.status_code, held.content) == (304, b"")


def test_what_a_file_is_can_be_asked_without_it(shared, shared_job):
    url = f"/v1/jobs/{shared_job['id']}/artifacts/config.json"
    got, asked = shared.get(url), shared.head(url)

    assert (asked.status_code, asked.content) == (200, b"")
    for name in ("content-length", "etag", "content-disposition"):
        assert asked.headers[name] == got.headers[name]
    held = shared.head(url, headers={"If-None-Match": got.headers["etag"]})
    assert held.status_code == 304
    assert shared.head(f"/v1/jobs/{shared_job['id']}/artifacts").status_code == 200
    assert shared.head(f"{url}.not").status_code == 404


@pytest.mark.parametrize(("range", "status"), [("bytes=99-", 416), ("bytes=5-2", 400), ("lines=1-2", 400)])
def test_a_range_that_cannot_be_is_a_problem_document(shared, shared_job, range, status):
    response = shared.get(f"/v1/jobs/{shared_job['id']}/artifacts/config.json", headers={"Range": range})

    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert "Range" in response.json()["detail"]
    size = len(shared.get(f"/v1/jobs/{shared_job['id']}/artifacts/config.json").content)
    assert response.headers.get("content-range") == (f"bytes */{size}" if status == 416 else None)


def test_a_job_without_export_has_no_files(http, spec, pipeline):
    pipeline.go.clear()
    job_id = http.post("/v1/jobs", json=spec).json()["id"]

    assert http.get(f"/v1/jobs/{job_id}/artifacts").json() == {"artifacts": []}


def test_files_of_a_job_that_has_not_succeeded_are_not_handed_out(http, spec, pipeline, application):
    pipeline.go.clear()
    job_id = http.post("/v1/jobs", json=spec).json()["id"]
    assert pipeline.searching.wait(60)
    folder = application.artifacts_dir(job_id)
    folder.mkdir()
    (folder / "config.json").write_text("{}")

    assert http.get(f"/v1/jobs/{job_id}/artifacts").json() == {"artifacts": []}
    refused = http.get(f"/v1/jobs/{job_id}/artifacts/config.json")
    assert (refused.status_code, refused.json()["detail"]) == (
        404, f"job {job_id} is searching; it has no exported model",
    )  # fmt: skip
    folder.rename(folder.with_name("aside"))  # the pipeline makes its own


OUTSIDE = [
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
]


def test_no_name_leads_out_of_the_folder(http, done, application):
    folder = application.artifacts_dir(done["id"])
    (folder / "link.db").symlink_to(application.settings.data_dir / "ranksieve.db")

    for name in OUTSIDE:
        response = http.get(f"/v1/jobs/{done['id']}/artifacts/{name}")

        assert response.status_code == 404, name
        assert response.headers["content-type"] == "application/problem+json"
