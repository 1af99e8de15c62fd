"""Commands that need no server: run, estimate, evaluate, and export from a data directory."""

import json
import os
import signal
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from ranksieve.api.cli import main
from ranksieve.api.cli.deps import Parts
from ranksieve.search.errors import InfrastructureError, InputError, ScoringError


def test_run_prints_the_result(ranksieve, spec_file):
    done = ranksieve("run", spec_file)

    assert done.exit_code == 0, done.stderr
    assert "block parameters" in done.stdout
    assert "model: /jobs/1/artifacts" in done.stdout
    assert "generation 0: 12 evaluations" in done.stderr
    assert "\x1b" not in done.output


def test_run_as_json(ranksieve, spec_file, result, pipeline, capfd):
    original = pipeline.__class__.__call__

    def chatty(self, job, log):
        print("a library's chatter")  # noqa: T201
        subprocess.run([sys.executable, "-c", "print('a child process')"], check=True)
        return original(self, job, log)

    pipeline.__class__ = type("Chatty", (pipeline.__class__,), {"__call__": chatty})

    done = ranksieve("run", spec_file, "--json")

    assert done.exit_code == 0
    printed = json.loads(done.stdout)
    assert printed.pop("state") == "succeeded"
    assert len(printed.pop("job_id")) == 24
    assert printed == result
    assert "a library's chatter" in done.stderr
    child = capfd.readouterr()
    assert "a child process" in child.err
    assert child.out == ""


def test_failed_run(ranksieve, spec_file, pipeline):
    pipeline.failure = ScoringError("17 of 20 candidates failed")

    done = ranksieve("run", spec_file, "--json")

    assert done.exit_code == 1
    printed = json.loads(done.stdout)
    assert printed["state"] == "failed"
    assert printed["error"] == {"code": "scoring", "message": "17 of 20 candidates failed", "field": None}
    assert "job failed: 17 of 20 candidates failed" in done.stderr
    assert ranksieve("run", spec_file).exit_code == 1


def test_crashed_run_goes_on(ranksieve, spec_file, pipeline):
    pipeline.failure = InfrastructureError("Ray is gone")

    crashed = ranksieve("run", spec_file, "--json")

    assert crashed.exit_code == 1
    printed = json.loads(crashed.stdout)
    assert (printed["state"], printed["error"]["code"]) == ("crashed", "infrastructure")
    assert "job queued again in 0 s: Ray is gone" in crashed.stderr
    assert "job crashed: Ray is gone" in crashed.stderr
    pipeline.failure = None
    done = ranksieve("run", spec_file, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["job_id"] == printed["job_id"]


def test_crashed_fork_goes_on(ranksieve, spec_file, spec, pipeline):
    spec["task"]["data"]["sizes"] = {"search": 8}
    spec_file.write_text(json.dumps(spec))
    parent = json.loads(ranksieve("run", spec_file, "--json").stdout)["job_id"]
    fork = {**spec, "parent": {"job": parent}}
    spec_file.write_text(json.dumps(fork))
    pipeline.failure = InfrastructureError("Ray is gone")
    crashed = json.loads(ranksieve("run", spec_file, "--json").stdout)
    assert crashed["state"] == "crashed"
    pipeline.failure = None

    spec_file.write_text(json.dumps({**fork, "search": {"seeds": [{"ranks": [1, 1]}]}}))
    other = json.loads(ranksieve("run", spec_file, "--json").stdout)
    spec_file.write_text(json.dumps(fork))
    done = json.loads(ranksieve("run", spec_file, "--json").stdout)

    assert other["job_id"] not in (crashed["job_id"], parent)
    assert (done["job_id"], done["state"]) == (crashed["job_id"], "succeeded")


@pytest.fixture
def default_ctrl_c():
    """Also where a shell has started the tests in the background, which are then printed to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_cancels_the_job(ranksieve, spec_file, pipeline, default_ctrl_c):
    class Interrupting(pipeline.__class__):
        def __call__(self, job, log):
            os.kill(os.getpid(), signal.SIGINT)
            return super().__call__(job, log)

    pipeline.__class__ = Interrupting
    pipeline.go.clear()

    done = ranksieve("run", spec_file, "--json")

    assert done.exit_code == 130
    assert json.loads(done.stdout)["state"] == "cancelled"


def test_roots_of_a_run(build, tmp_path, spec_file, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("RANKSIEVE_ROOTS", "/env")
    seen = []

    def spying(settings):
        seen.append(settings)
        return build(settings)

    arguments = ["run", str(spec_file), "--root", "/given", "--data-dir", "jobs"]
    CliRunner().invoke(main.app, arguments, obj=Parts(build=spying))

    [settings] = seen
    assert [str(root) for root in settings.roots] == [
        "/env", "/given", str(tmp_path), str(here), str(here / "jobs"),
    ]  # fmt: skip
    assert settings.data_dir == here / "jobs"
    assert settings.api_key is not None
    assert settings.requests_per_second == 0  # the command would be refused by itself


@pytest.mark.parametrize("command", [("run",), ("estimate",), ("evaluate", ".")])
def test_file_outside_the_roots(ranksieve, spec_file, spec, tmp_path_factory, command):
    other = tmp_path_factory.mktemp("other")
    (other / "reviews.jsonl").write_text("")
    spec["task"]["data"]["source"]["path"] = str(other / "reviews.jsonl")
    spec_file.write_text(json.dumps(spec))

    done = ranksieve(*command, spec_file)

    assert done.exit_code == 2
    assert "task.data.source.path: " in done.stderr
    assert "server" not in done.stderr
    assert done.stderr.endswith(f"allow it with --root {other}\n")
    assert ranksieve(*command, spec_file, "--root", other).exit_code == 0


def test_data_directory_in_use(ranksieve, application, spec_file):
    application.start()
    try:
        done = ranksieve("run", spec_file, "--data-dir", application.settings.data_dir)
    finally:
        application.stop()

    assert done.exit_code == 1
    assert "another ranksieve server owns" in done.stderr


def test_estimate(ranksieve, spec_file, estimate, tmp_path):
    table = ranksieve("estimate", spec_file)
    printed = ranksieve("estimate", spec_file, "--json")

    assert table.exit_code == printed.exit_code == 0
    assert "host, GB" in table.stdout
    assert "note: needs 20.0 GB of memory" in table.stdout
    assert json.loads(printed.stdout) == estimate
    assert not list(tmp_path.rglob("*.db"))


def test_refused_estimate_as_json(ranksieve, spec_file, preflight):
    preflight.error = InputError("task.prompt", "no field 'body'")

    done = ranksieve("estimate", spec_file, "--json")

    assert done.exit_code == 2
    assert json.loads(done.stdout)["error"]["errors"] == [
        {"field": "task.prompt", "detail": "no field 'body'"}
    ]
    assert done.stderr.splitlines() == ["task.prompt: no field 'body'"]


def test_dense_writes_a_copy_beside_the_export(ranksieve, tmp_path):
    done = ranksieve("dense", tmp_path, "-o", "copy")

    assert (done.exit_code, done.stdout) == (0, "copy\n")
    assert (tmp_path / "copy").is_dir()
    refused = ranksieve("dense", "missing", "-o", "other")
    assert refused.exit_code == 2
    assert "model_dir: no folder" in refused.stderr


def test_quantize_writes_a_copy_beside_the_export(ranksieve, tmp_path):
    done = ranksieve("quantize", tmp_path, "-o", "copy", "--bits", "8")

    assert (done.exit_code, done.stdout) == (0, "copy\n")
    assert (tmp_path / "copy" / "8").is_dir()


@pytest.mark.parametrize(("option", "public"), [((), False), (("--public",), True)])
def test_push_tells_the_address_and_is_private_unless_asked(ranksieve, tmp_path, option, public):
    done = ranksieve("push", tmp_path, "somebody/films", *option)

    assert (done.exit_code, done.stdout) == (0, f"{tmp_path.name} to somebody/films, public {public}\n")


def test_evaluate(ranksieve, spec_file, tmp_path):
    table = ranksieve("evaluate", tmp_path, spec_file, "--split", "confirm")
    printed = ranksieve("evaluate", tmp_path, spec_file, "--json")

    assert "metric.confirm" in table.stdout
    assert json.loads(printed.stdout) == {"metric": {"test": 0.5}, "model": str(tmp_path)}


def test_export_without_a_server(ranksieve, spec_file, spec, settings, tmp_path, monkeypatch):
    spec["task"]["data"]["sizes"] = {"search": 8}
    spec_file.write_text(json.dumps(spec))
    data_dir = ("--data-dir", settings.data_dir)
    job_id = json.loads(ranksieve("run", spec_file, "--json", *data_dir).stdout)["job_id"]
    monkeypatch.setattr(main, "tell_of_unfinished", lambda client, console: console.print("3 go first"))

    made = ranksieve("export", job_id, "--share", "0.5", "-o", tmp_path / "small", *data_dir)

    assert made.exit_code == 0, made.stderr
    assert made.stderr.startswith("3 go first\n")
    assert (tmp_path / "small" / "config.json").is_file()


def test_export_from_a_mistyped_directory(ranksieve, tmp_path):
    refused = ranksieve(
        "export", "abc", "--share", "0.5", "-o", tmp_path / "small", "--data-dir", tmp_path / "typo"
    )

    assert refused.exit_code == 2
    assert "data_dir: no server has run on" in refused.stderr
    assert not (tmp_path / "typo").exists()


def test_demo_returns_its_exit_code(ranksieve):
    assert ranksieve("demo").exit_code == 4  # the fake counts its options
