"""Commands for the jobs of a server."""

import json
from datetime import timedelta

from typer.testing import CliRunner

from ranksieve.api.cli import main
from ranksieve.search.errors import ScoringError
from ranksieve.service.server.settings import Settings


def test_submit_and_watch(ranksieve, spec_file, client):
    submitted = ranksieve("submit", spec_file)
    job_id = submitted.stdout.strip()
    watched = ranksieve("watch", job_id)

    assert submitted.exit_code == watched.exit_code == 0
    assert client.job(job_id)["name"] == "snippets"
    assert "block parameters" in watched.stdout
    assert watched.stdout.endswith(f"model: ranksieve download {job_id} -o DIR\n")
    assert job_id in ranksieve("jobs").stdout
    assert job_id not in ranksieve("jobs", "--state", "failed").stdout


def test_watch_past_retention(ranksieve, spec_file, application):
    job_id = ranksieve("submit", spec_file, "--watch").stdout.split()[0]
    application.store.cleanup.forget_events(timedelta(seconds=-1))

    watched = ranksieve("watch", job_id)

    assert watched.exit_code == 0
    assert "past retention" in watched.stderr
    assert "block parameters" in watched.stdout


def test_submit_and_watch_a_failure(ranksieve, spec_file, pipeline):
    pipeline.failure = ScoringError("too many")

    done = ranksieve("submit", spec_file, "--watch")

    assert done.exit_code == 1
    assert len(done.stdout.split()) == 1
    assert "job failed: too many" in done.stderr


def test_pause_resume_and_stop(ranksieve, spec_file, pipeline):
    pipeline.go.clear()
    job_id = ranksieve("submit", spec_file).stdout.strip()
    pipeline.searching.wait()

    assert ranksieve("pause", job_id).stdout.startswith(f"{job_id} paus")
    assert ranksieve("resume", job_id).exit_code == 0
    assert ranksieve("stop", job_id).stdout == f"{job_id} stopping\n"
    assert ranksieve("watch", job_id).exit_code == 0
    assert ranksieve("resume", job_id).exit_code == 1


def test_the_beginning_of_an_id_is_enough(ranksieve, spec_file, client):
    first, second = (ranksieve("submit", spec_file, "--watch").stdout.split()[0] for _ in range(2))
    shared = next(place for place in range(24) if first[place] != second[place])

    assert ranksieve("delete", first[:3]).exit_code == 1
    refused = ranksieve("delete", first[: max(4, shared)])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "2 jobs begin with" in refused.stderr
    assert ranksieve("delete", first[: shared + 1]).stdout == f"{first} deleted\n"
    assert [job["id"] for job in client.jobs()] == [second]
    assert second in ranksieve("jobs", "--search", "SNIP").stdout
    assert second not in ranksieve("jobs", "--search", "films").stdout


def test_change(ranksieve, client, spec_file, pipeline):
    pipeline.go.clear()
    job_id = ranksieve("submit", spec_file).stdout.strip()

    done = ranksieve(
        "change", job_id, "--priority", "3", "--actors", "5", "--label", "team:nlp", "--label", "a:b:c"
    )

    assert done.stdout == f"{job_id} changed\n"
    job = client.job(job_id)
    assert (job["name"], job["priority"], job["labels"]) == ("snippets", 3, {"team": "nlp", "a": "b:c"})
    assert job["spec"]["resources"]["actors"] == 5
    assert ranksieve("change", job_id, "--label", "nlp").exit_code == 2
    nothing = ranksieve("change", job_id)
    assert (nothing.exit_code, "nothing to change" in nothing.stderr) == (2, True)
    assert ranksieve("change", job_id, "--priority", "101").exit_code == 2


def test_cancel(ranksieve, spec_file, pipeline):
    pipeline.go.clear()
    job_id = ranksieve("submit", spec_file).stdout.strip()

    assert ranksieve("cancel", job_id).stdout.startswith(f"{job_id} cancel")
    assert ranksieve("watch", job_id).exit_code == 1

    again = ranksieve("cancel", job_id)
    assert again.exit_code == 1
    assert "already ended" in again.stderr


def test_delete(ranksieve, done):
    assert ranksieve("delete", done["id"]).stdout == f"{done['id']} deleted\n"

    again = ranksieve("delete", done["id"])
    assert again.exit_code == 1
    assert "there is no job" in again.stderr


def test_download(ranksieve, done, tmp_path):
    downloaded = ranksieve("download", done["id"], "-o", tmp_path / "model")

    assert downloaded.exit_code == 0
    assert downloaded.stdout.split() == [
        f"{tmp_path}/model/config.json",
        f"{tmp_path}/model/tokenizer/vocab.txt",
    ]


def test_download_into_a_file(ranksieve, done, tmp_path):
    (tmp_path / "file").write_text("")

    failed = ranksieve("download", done["id"], "-o", tmp_path / "file")

    assert failed.exit_code == 1
    assert failed.stderr.startswith(f"error: {tmp_path}/file")


def test_export(ranksieve, searched, tmp_path):
    made = ranksieve("export", searched["id"], "--share", "0.5", "-o", tmp_path / "small")

    assert made.exit_code == 0, made.stderr
    assert "block parameters" in made.stdout
    assert (tmp_path / "small" / "config.json").is_file()


def test_export_below_the_smallest(ranksieve, searched, tmp_path):
    refused = ranksieve("export", searched["id"], "--share", "0.1", "-o", tmp_path / "small")

    assert refused.exit_code == 2
    assert "share: must be at least 0.4100" in refused.stderr


def test_models(ranksieve, application, tmp_path, monkeypatch):
    (tmp_path / "small.gguf").write_bytes(b"GGUF" + bytes(10_000_000))
    settings = Settings(data_dir=application.settings.data_dir, roots=[tmp_path])
    monkeypatch.setattr(application, "settings", settings)
    printed = ranksieve("models", "--json")
    table = ranksieve("models")

    assert table.exit_code == printed.exit_code == 0
    assert "weights, GB" in table.stdout
    assert "0.01" in table.stdout
    printed = json.loads(printed.stdout)
    assert printed["complete"]
    assert printed["models"][0]["model"] == {"path": "small.gguf"}


def test_models_of_no_server_as_json():
    done = CliRunner().invoke(main.app, ["models", "--json", "--url", "http://127.0.0.1:9"])

    assert done.exit_code == 1
    printed = json.loads(done.stdout)["error"]
    assert printed["code"] == "infrastructure"
    assert done.stderr == f"error: {printed['message']}\n"


def test_unreachable_server(spec_file):
    done = CliRunner().invoke(main.app, ["submit", str(spec_file), "--url", "http://127.0.0.1:1"])

    assert done.exit_code == 1
    assert done.stderr.startswith("error: cannot reach http://127.0.0.1:1")
