"""Compression of answers: long JSON is, and files of models and short answers are not."""

import gzip
import json


def test_long_answers_are_compressed(shared, shared_job):
    with shared.stream("GET", f"/v1/jobs/{shared_job['id']}") as answer:
        sent = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "Accept-Encoding"
    assert len(sent) == int(answer.headers["content-length"])
    assert json.loads(gzip.decompress(sent))["id"] == shared_job["id"]

    plain = shared.get(f"/v1/jobs/{shared_job['id']}", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert len(sent) < len(plain.content) / 2


def test_files_streams_and_short_answers_are_not_compressed(http, done, application):
    url = f"/v1/jobs/{done['id']}"
    (application.artifacts_dir(done["id"]) / "long.json").write_text(" " * 5000)
    assert "content-encoding" not in http.get(f"{url}/ranks").headers
    file = http.get(f"{url}/artifacts/long.json")
    assert (file.status_code, file.headers["content-length"]) == (200, "5000")
    stream = http.get(f"{url}/events", headers={"Accept": "text/event-stream"})
    assert len(stream.content) > 1024
    assert "content-encoding" not in stream.headers
