"""`ranksieve plot` on jobs with fakes behind them."""

import json
import sys

import pytest

from ranksieve.api.cli.embedded import embedded

pytest.importorskip("matplotlib", reason="needs the extra plot")

STARTS = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}


@pytest.mark.parametrize("kind", STARTS)
def test_a_finished_job_is_drawn_alike_each_time(ranksieve, searched, tmp_path, kind):
    file = tmp_path / f"job.{kind}"

    done = ranksieve("plot", searched["id"][:6], "-o", file)

    assert (done.exit_code, done.stdout, done.stderr) == (0, f"{file}\n", "")
    first = file.read_bytes()
    assert first.startswith(STARTS[kind])
    ranksieve("plot", searched["id"], "-o", file)
    assert file.read_bytes() == first
    if kind == "svg":
        for title in (
            "Size against loss",
            "Best so far at the size being tried",
            "Ranks of the exported model",
        ):
            assert title in first.decode()


def test_a_job_in_mid_search(ranksieve, client, spec, pipeline, tmp_path):
    pipeline.go.clear()
    spec["task"]["data"]["sizes"] = {"search": 8}
    id = client.submit(spec)["id"]
    pipeline.searching.wait()

    done = ranksieve("plot", id, "-o", "job.svg")

    assert (done.exit_code, done.stderr) == (0, "")
    drawn = (tmp_path / "job.svg").read_text()
    assert f"{spec['name']}, searching" in drawn
    assert "41.0 % kept" in drawn


def test_a_job_without_anything_to_draw(ranksieve, client, spec, pipeline, tmp_path):
    pipeline.generations = 0
    pipeline.go.clear()
    id = client.submit(spec)["id"]
    pipeline.searching.wait()

    refused = ranksieve("plot", id, "-o", "job.svg")

    assert refused.exit_code == 1
    assert refused.stderr == (
        f"error: job {id} is searching and has scored no candidate; plot a job whose search has begun\n"
    )
    assert not (tmp_path / "job.svg").exists()


def test_ranks_that_the_server_has_not_are_left_out(ranksieve, searched, settings, tmp_path):
    (settings.jobs_dir / searched["id"] / "matrices.json").unlink()

    done = ranksieve("plot", searched["id"], "-o", "job.svg")

    assert done.exit_code == 0
    assert done.stderr.startswith("left out: ")
    assert "Ranks of" not in (tmp_path / "job.svg").read_text()


def test_a_data_directory_is_read_and_its_jobs_stay_where_they_are(
    ranksieve, build, spec, settings, pipeline, tmp_path
):
    pipeline.go.clear()
    with embedded(build(settings)) as client:
        id = client.submit(spec)["id"]
        pipeline.searching.wait()
    pipeline.searching.clear()

    done = ranksieve("plot", id, "-o", "job.svg", "--data-dir", settings.data_dir)

    assert (done.exit_code, done.stderr) == (0, "")
    assert "Size against loss" in (tmp_path / "job.svg").read_text()
    assert not pipeline.searching.is_set()
    refused = ranksieve("plot", id, "-o", "job.svg", "--data-dir", "typo")
    assert refused.stderr.startswith("data_dir: no server has run on")


def test_rivals(ranksieve, client, spec, pipeline, tmp_path):
    pipeline.result["data"] = {"test": "d3"}
    id = client.submit(spec)["id"]
    for _ in client.events(id):
        pass
    rival = {"kind": "tfidf", "name": "TF-IDF", "file_bytes": 2e6, "metric": 0.79, "interval": None}
    file = tmp_path / "rivals.json"
    file.write_text(json.dumps({"rivals": [rival], "data": {"test": "d3"}}))

    done = ranksieve("plot", id, "-o", "job.svg", "--rivals", file)

    assert done.exit_code == 0, done.stderr
    assert "TF-IDF" in (tmp_path / "job.svg").read_text()
    file.write_text(json.dumps({"rivals": [rival], "data": {"test": "another"}}))
    refused = ranksieve("plot", id, "-o", "job.svg", "--rivals", file)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("--rivals: were scored on other test records")


@pytest.mark.parametrize("name", ["job.gif", "nowhere/job.svg"])
def test_a_file_that_cannot_be_written_is_refused_first(ranksieve, name):
    refused = ranksieve("plot", "abc", "-o", name)

    assert refused.exit_code == 2
    assert refused.stderr.startswith("--output: ")


def test_without_matplotlib(ranksieve, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    refused = ranksieve("plot", "abc", "-o", "job.svg")

    assert refused.exit_code == 1
    assert refused.stderr == (
        "error: not installed: matplotlib; install the extra with pip install 'ranksieve[plot]'\n"
    )
