"""The command line: exit codes, what goes where, and every wrong spec."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from datetime import timedelta

import pytest
from standardwebhooks import Webhook as Receiver
from typer.main import get_command
from typer.testing import CliRunner

from ranksieve.api.cli import main
from ranksieve.api.cli.deps import Parts
from ranksieve.api.client.client import Client
from ranksieve.search.errors import InfrastructureError, InputError, ScoringError
from ranksieve.service.server.settings import Settings
from ranksieve.service.webhooks.outcomes import Outcome
from ranksieve.workers.cache.folders import FolderCache


@pytest.fixture
def spec_file(tmp_path, spec):
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(spec))
    return path


@pytest.fixture
def ranksieve(build, request, tmp_path, monkeypatch):
    """Runs the command line with the fakes behind it; client commands reach the `http` application."""
    monkeypatch.chdir(tmp_path)

    def connect(url, api_key):
        http = request.getfixturevalue("http")
        return Client("http://127.0.0.1", api_key, transport=http._transport, wait=lambda seconds: None)

    def evaluate(settings, model_dir, spec, split):
        print("a library's chatter")  # noqa: T201
        return {"metric": {split: 0.5}, "model": str(model_dir)}

    parts = Parts(build=build, connect=connect, evaluate=evaluate, demo=lambda **options: len(options))

    def run(*arguments):
        return CliRunner().invoke(main.app, [str(argument) for argument in arguments], obj=parts)

    return run


def test_run_ends_with_the_table(ranksieve, spec_file):
    done = ranksieve("run", spec_file)

    assert done.exit_code == 0, done.stderr
    assert "block parameters" in done.stdout
    assert "model: /jobs/1/artifacts" in done.stdout
    assert "generation 0: 12 evaluations" in done.stderr
    assert "\x1b" not in done.output


def test_run_json_prints_one_object(ranksieve, spec_file, result, pipeline, capfd):
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


def test_run_of_a_job_that_fails(ranksieve, spec_file, pipeline):
    pipeline.failure = ScoringError("17 of 20 candidates failed")

    done = ranksieve("run", spec_file, "--json")

    assert done.exit_code == 1
    printed = json.loads(done.stdout)
    assert printed["state"] == "failed"
    assert printed["error"] == {"code": "scoring", "message": "17 of 20 candidates failed", "field": None}
    assert "job failed: 17 of 20 candidates failed" in done.stderr
    assert ranksieve("run", spec_file).exit_code == 1


def test_run_of_a_job_that_crashes_goes_on_when_run_again(ranksieve, spec_file, pipeline):
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


def test_run_of_a_fork_that_crashed_goes_on_when_run_again(ranksieve, spec_file, spec, pipeline):
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
    """Also where a shell has started the tests in the background, which are then told to ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_cancels_the_job_and_waits_for_it(ranksieve, spec_file, pipeline, default_ctrl_c):
    class Interrupting(pipeline.__class__):
        def __call__(self, job, log):
            os.kill(os.getpid(), signal.SIGINT)
            return super().__call__(job, log)

    pipeline.__class__ = Interrupting
    pipeline.go.clear()

    done = ranksieve("run", spec_file, "--json")

    assert done.exit_code == 130
    assert json.loads(done.stdout)["state"] == "cancelled"


def test_run_lets_files_beside_the_spec_and_here_be_read(build, tmp_path, spec_file, monkeypatch):
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
    assert [str(root) for root in settings.roots] == ["/env", "/given", str(tmp_path), str(here)]
    assert settings.data_dir == here / "jobs"
    assert settings.api_key is not None
    assert settings.requests_per_second == 0  # the command would be refused by itself


def test_a_bad_spec_is_refused_with_the_messages_of_rest(ranksieve, shared, tmp_path, bad_spec):
    document, field = bad_spec
    path = tmp_path / "bad.yaml"
    path.write_text(json.dumps(document))
    over_rest = shared.post("/v1/jobs", json=document).json()["errors"]

    for command in ("run", "submit", "estimate"):
        done = ranksieve(command, path)

        assert done.exit_code == 2
        assert done.stdout == ""
        printed = [line.split(": ", 1) for line in done.stderr.splitlines()]
        assert [detail for _, detail in printed] == [f"{e['field']}: {e['detail']}" for e in over_rest]
        assert printed[0][1].startswith(f"{field}: ")
        assert all(re.fullmatch(rf"{path}:1:\d+", where) for where, _ in printed)


def test_a_bad_spec_is_one_json_object_too(ranksieve, spec_file, spec):
    spec["search"] = {"max_evaluations": 0}
    spec_file.write_text(json.dumps(spec))

    done = ranksieve("run", spec_file, "--json")

    assert done.exit_code == 2
    printed = json.loads(done.stdout)
    assert printed["job_id"] is None
    assert printed["state"] == "rejected"
    [error] = printed["error"]["errors"]
    assert error["field"] == "search.max_evaluations"
    assert error["where"].startswith(f"{spec_file}:1:")


def test_what_preflight_refuses_is_told_by_field(ranksieve, spec_file, preflight):
    preflight.error = InputError("task.data.source.path", "no such file: /data/reviews.jsonl")

    for command in ("run", "submit", "estimate"):
        done = ranksieve(command, spec_file)

        assert done.exit_code == 2
        assert done.stderr.splitlines() == ["task.data.source.path: no such file: /data/reviews.jsonl"]


def test_a_failure_takes_one_line_whatever_a_library_said(ranksieve, spec_file, preflight):
    preflight.error = InputError(
        "model.path", "cannot read the tokenizer: none of:\n(1) a file,\n(2) a slow one."
    )

    done = ranksieve("submit", spec_file)

    printed = "model.path: cannot read the tokenizer: none of: (1) a file, (2) a slow one."
    assert done.stderr.splitlines() == [printed]


@pytest.mark.parametrize("command", [("run",), ("estimate",), ("evaluate", ".")])
def test_a_file_outside_is_told_without_a_server(ranksieve, spec_file, spec, tmp_path_factory, command):
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


def test_a_missing_file_and_wrong_usage_exit_2(ranksieve, spec_file):
    missing = ranksieve("run", "nope.yaml")

    assert missing.exit_code == 2
    assert missing.stderr.startswith("spec: cannot read nope.yaml: No such file")
    assert ranksieve("run").exit_code == 2
    assert ranksieve("fly").exit_code == 2
    assert ranksieve("jobs", "--state", "lost").exit_code == 2


def commands(group=None, path=()):
    """Every command and group of commands, by the words that call it."""
    group = group or get_command(main.app)
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


@pytest.mark.parametrize("command", list(commands()), ids=" ".join)
def test_every_command_has_a_short_option_for_help(ranksieve, command):
    done = ranksieve(*command, "-h")

    assert done.exit_code == 0
    assert f"Usage: ranksieve {' '.join(command)}".strip() in done.stdout


@pytest.mark.parametrize(
    ("option", "printed"), [("--version", "ranksieve 0.1.0\n"), ("-h", "Usage: ranksieve")]
)
def test_the_command_starts_in_a_folder_of_modules_of_the_same_names(tmp_path, option, printed):
    for name in ("ranksieve", "search", "torch", "numpy", "typer", "pydantic"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(__file__)")
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").write_text("raise SystemExit(__file__)")
    command = shutil.which("ranksieve", path=sysconfig.get_path("scripts"))
    assert command, "expected the package to be installed"

    done = subprocess.run([command, option], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert printed in done.stdout


def test_help_tells_the_defaults_that_the_settings_have(ranksieve):
    served = " ".join(ranksieve("serve", "--help").stdout.replace("│", " ").split())
    created = " ".join(ranksieve("webhooks", "create", "--help").stdout.replace("│", " ").split())

    for name in ("host", "port", "data_dir"):
        assert f"[default: ({Settings.model_fields[name].default})]" in served
    assert "[default: (those that" in created


def test_submit_prints_the_id_and_watch_follows(ranksieve, spec_file, client):
    submitted = ranksieve("submit", spec_file)
    job_id = submitted.stdout.strip()
    watched = ranksieve("watch", job_id)

    assert submitted.exit_code == watched.exit_code == 0
    assert client.job(job_id)["name"] == "snippets"
    assert "block parameters" in watched.stdout
    assert watched.stdout.endswith(f"model: ranksieve download {job_id} -o DIR\n")
    assert job_id in ranksieve("jobs").stdout
    assert job_id not in ranksieve("jobs", "--state", "failed").stdout


def test_watch_shows_the_result_of_a_job_whose_events_are_past_retention(ranksieve, spec_file, application):
    job_id = ranksieve("submit", spec_file, "--watch").stdout.split()[0]
    application.store.cleanup.forget_events(timedelta(seconds=-1))

    watched = ranksieve("watch", job_id)

    assert watched.exit_code == 0
    assert "past retention" in watched.stderr
    assert "block parameters" in watched.stdout


def test_submit_watch_exits_1_when_the_job_fails(ranksieve, spec_file, pipeline):
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


def test_download(ranksieve, done, tmp_path):
    downloaded = ranksieve("download", done["id"], "-o", tmp_path / "model")

    assert downloaded.exit_code == 0
    assert downloaded.stdout.split() == [
        f"{tmp_path}/model/config.json",
        f"{tmp_path}/model/tokenizer/vocab.txt",
    ]


def test_export_makes_another_size_and_downloads_it(ranksieve, searched, tmp_path):
    made = ranksieve("export", searched["id"], "--share", "0.5", "-o", tmp_path / "small")

    assert made.exit_code == 0, made.stderr
    assert "block parameters" in made.stdout
    assert (tmp_path / "small" / "config.json").is_file()


def test_export_of_what_is_not_there(ranksieve, searched, tmp_path):
    refused = ranksieve("export", searched["id"], "--share", "0.1", "-o", tmp_path / "small")

    assert refused.exit_code == 2
    assert "share: must be at least 0.4100" in refused.stderr


def test_export_without_a_server(ranksieve, spec_file, spec, settings, tmp_path):
    spec["task"]["data"]["sizes"] = {"search": 8}
    spec_file.write_text(json.dumps(spec))
    data_dir = ("--data-dir", settings.data_dir)
    job_id = json.loads(ranksieve("run", spec_file, "--json", *data_dir).stdout)["job_id"]

    made = ranksieve("export", job_id, "--share", "0.5", "-o", tmp_path / "small", *data_dir)

    assert made.exit_code == 0, made.stderr
    assert (tmp_path / "small" / "config.json").is_file()


def test_export_without_a_server_tells_of_jobs_that_go_first(
    ranksieve, spec_file, spec, settings, tmp_path, monkeypatch
):
    spec["task"]["data"]["sizes"] = {"search": 8}
    spec_file.write_text(json.dumps(spec))
    data_dir = ("--data-dir", settings.data_dir)
    job_id = json.loads(ranksieve("run", spec_file, "--json", *data_dir).stdout)["job_id"]
    monkeypatch.setattr(main, "tell_of_unfinished", lambda client, console: console.print("3 go first"))

    made = ranksieve("export", job_id, "--share", "0.5", "-o", tmp_path / "small", *data_dir)

    assert made.stderr.startswith("3 go first\n")


def test_export_from_a_directory_that_is_none_makes_none(ranksieve, tmp_path):
    refused = ranksieve(
        "export", "abc", "--share", "0.5", "-o", tmp_path / "small", "--data-dir", tmp_path / "typo"
    )

    assert refused.exit_code == 2
    assert "data_dir: no server has run on" in refused.stderr
    assert not (tmp_path / "typo").exists()


def test_download_to_where_nothing_can_be_written(ranksieve, done, tmp_path):
    (tmp_path / "file").write_text("")

    failed = ranksieve("download", done["id"], "-o", tmp_path / "file")

    assert failed.exit_code == 1
    assert failed.stderr.startswith(f"error: {tmp_path}/file")


def test_an_unreachable_server_exits_1(spec_file):
    done = CliRunner().invoke(main.app, ["submit", str(spec_file), "--url", "http://127.0.0.1:1"])

    assert done.exit_code == 1
    assert done.stderr.startswith("error: cannot reach http://127.0.0.1:1")


def test_a_data_directory_in_use_exits_1(ranksieve, application, spec_file):
    application.start()
    try:
        done = ranksieve("run", spec_file, "--data-dir", application.settings.data_dir)
    finally:
        application.stop()

    assert done.exit_code == 1
    assert "another ranksieve server owns" in done.stderr


def test_a_refusal_is_obeyed_by_no_terminal(ranksieve, spec_file, preflight):
    preflight.error = InputError("task.choices", "no record has the answer \x1b]0;owned\x07 of the choices")

    done = ranksieve("submit", spec_file)

    assert done.exit_code == 2
    assert done.stderr == "task.choices: no record has the answer \ufffd]0;owned\ufffd of the choices\n"


def test_serve_refuses_a_network_without_a_key(ranksieve):
    done = ranksieve("serve", "--host", "0.0.0.0")

    assert done.exit_code == 2
    assert done.stderr.startswith("host: 0.0.0.0 is not a loopback address; set RANKSIEVE_API_KEY")


def test_serve_names_a_wrong_setting(ranksieve):
    done = ranksieve("serve", "--port", "70000")

    assert done.exit_code == 2
    assert done.stderr.startswith("port: Input should be less than or equal to 65535")


def test_evaluate(ranksieve, spec_file, tmp_path):
    table = ranksieve("evaluate", tmp_path, spec_file, "--split", "confirm")
    printed = ranksieve("evaluate", tmp_path, spec_file, "--json")

    assert "metric.confirm" in table.stdout
    assert json.loads(printed.stdout) == {"metric": {"test": 0.5}, "model": str(tmp_path)}


def test_cache_lists_and_clears(ranksieve, tmp_path):
    cache = FolderCache(tmp_path / "data" / "cache")
    for key in ("model-1", "factors-1"):
        with cache.lock(key), cache.writing(key) as scratch:
            (scratch / "data.bin").write_bytes(bytes(1000))

    listed = ranksieve("cache", "list", "--data-dir", "data")
    with cache.lease(), cache.lock("model-1"):
        cache.find("model-1")
        while_used = ranksieve("cache", "clear", "--data-dir", "data")
    cleared = ranksieve("cache", "clear", "--data-dir", "data")

    assert re.findall(r"[a-z]+-1", listed.stdout) == ["model-1", "factors-1"]
    assert "limit 100 GiB" in listed.stdout
    assert while_used.stdout == "removed 1 entries, 0.00 GiB; 1 are in use\n"
    assert cleared.stdout == "removed 1 entries, 0.00 GiB; 0 are in use\n"
    assert cache.entries() == []


def test_cache_of_a_directory_without_one_makes_none(ranksieve, tmp_path):
    done = ranksieve("cache", "list", "--data-dir", "mistyped")

    assert done.exit_code == 2
    assert done.stderr.startswith(f"data_dir: {tmp_path}/mistyped holds no cache; name a directory")
    assert not (tmp_path / "mistyped").exists()


def test_estimate_is_a_table_or_one_json_object_and_starts_nothing(ranksieve, spec_file, estimate, tmp_path):
    table = ranksieve("estimate", spec_file)
    printed = ranksieve("estimate", spec_file, "--json")

    assert table.exit_code == printed.exit_code == 0
    assert "host, GB" in table.stdout
    assert "note: needs 20.0 GB of memory" in table.stdout
    assert json.loads(printed.stdout) == estimate
    assert not list(tmp_path.rglob("*.db"))


def test_a_refused_estimate_is_one_json_object_too(ranksieve, spec_file, preflight):
    preflight.error = InputError("task.prompt", "no field 'body'")

    done = ranksieve("estimate", spec_file, "--json")

    assert done.exit_code == 2
    assert json.loads(done.stdout)["error"]["errors"] == [
        {"field": "task.prompt", "detail": "no field 'body'"}
    ]
    assert done.stderr.splitlines() == ["task.prompt: no field 'body'"]


def test_models_are_a_table_or_one_json_object(ranksieve, application, tmp_path, monkeypatch):
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
    assert printed["models"][0]["model"] == {"gguf": "small.gguf"}


def test_models_that_cannot_be_had_are_one_json_object_too():
    done = CliRunner().invoke(main.app, ["models", "--json", "--url", "http://127.0.0.1:9"])

    assert done.exit_code == 1
    printed = json.loads(done.stdout)["error"]
    assert printed["code"] == "infrastructure"
    assert done.stderr == f"error: {printed['message']}\n"


def test_demo_returns_its_exit_code(ranksieve):
    assert ranksieve("demo").exit_code == 4  # the fake counts its options


def test_the_command_line_starts_without_the_heavy_parts():
    heavy = "torch", "ray", "transformers", "datasets", "deap", "fastapi", "sqlalchemy", "uvicorn"
    code = f"import sys, ranksieve.api.cli.main; sys.exit(', '.join(set({heavy}) & set(sys.modules)) or 0)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr


def test_keys_are_made_listed_replaced_and_ended(ranksieve, settings, tmp_path, application):
    data_dir = ("--data-dir", settings.data_dir)
    secret = ranksieve("keys", "create", "alice", "--scope", "read", *data_dir).stdout.strip()
    key = application.store.keys.find(secret)
    assert (key.owner, key.scope, key.expires_at) == ("alice", "read", None)

    replaced = ranksieve("keys", "rotate", key.id, "--grace-hours", "1", *data_dir).stdout.strip()
    new = application.store.keys.find(replaced)
    assert ranksieve("keys", "revoke", new.id, *data_dir).stdout == f"{new.id} revoked\n"
    assert application.store.keys.find(replaced) is None
    assert application.store.keys.find(secret) is not None

    listed = ranksieve("keys", "list", *data_dir).stdout
    assert all(text in listed for text in (key.id, new.id, "alice", "read"))
    assert secret not in listed


@pytest.mark.parametrize("command", [("list",), ("rotate", "k"), ("revoke", "k")])
def test_keys_of_no_server_are_not_looked_for(ranksieve, tmp_path, command):
    done = ranksieve("keys", *command, "--data-dir", tmp_path / "mistyped")
    assert done.exit_code == 2
    assert "data_dir: no server has run on" in done.stderr
    assert not (tmp_path / "mistyped").exists()


def test_the_first_key_may_be_made_before_the_first_start(ranksieve, tmp_path):
    done = ranksieve("keys", "create", "alice", "--data-dir", tmp_path / "new")
    assert done.stdout.startswith("rsk_")
    assert f"creating a new database: {tmp_path}/new/ranksieve.db" in done.stderr


def test_a_wrong_key_command_says_so(ranksieve, settings):
    ranksieve("keys", "create", "alice", "--data-dir", settings.data_dir)
    done = ranksieve("keys", "revoke", "nope", "--data-dir", settings.data_dir)
    assert done.exit_code == 1
    assert "there is no key 'nope'" in done.stderr

    done = ranksieve("keys", "create", "a b", "--data-dir", settings.data_dir)
    assert done.exit_code == 2
    assert "owner: must be up to 100 letters" in done.stderr


def test_a_job_is_deleted(ranksieve, done):
    assert ranksieve("delete", done["id"]).stdout == f"{done['id']} deleted\n"

    again = ranksieve("delete", done["id"])
    assert again.exit_code == 1
    assert "there is no job" in again.stderr


def test_webhooks_are_made_listed_tested_rotated_and_deleted(ranksieve, http, endpoint):
    id, secret = ranksieve(
        "webhooks", "create", "https://hooks.example.com/", "--state", "failed"
    ).stdout.split()
    assert secret.startswith("whsec_")
    listed = ranksieve("webhooks", "list").stdout
    assert all(text in listed for text in (id, "hooks.example.com", "failed", "yes", "never"))

    tested = ranksieve("webhooks", "test", id)
    assert (tested.exit_code, tested.stdout.split()[1]) == (0, "delivered")
    [(_, headers, body)] = endpoint.received
    assert Receiver(secret).verify(body, headers)["type"] == "webhook.test"

    rotated = ranksieve("webhooks", "rotate", id, "--grace-hours", "1").stdout.strip()
    assert rotated.startswith("whsec_")
    assert rotated != secret
    assert ranksieve("webhooks", "delete", id).stdout == f"{id} deleted\n"
    assert http.get("/v1/webhooks").json() == {"webhooks": []}


def test_a_webhook_whose_test_fails_says_why_and_can_be_enabled_again(ranksieve, http, endpoint):
    id, _ = ranksieve("webhooks", "create", "https://hooks.example.com/").stdout.split()
    endpoint.outcomes.append(Outcome.answered(410))

    tested = ranksieve("webhooks", "test", id)

    assert (tested.exit_code, tested.stdout.split()[1]) == (1, "failed")
    assert tested.stderr == "error: answered 410\n"
    listed = ranksieve("webhooks", "list").stdout
    assert "no: the URL" in listed
    assert "410 Gone" in listed
    assert ranksieve("webhooks", "enable", id).stdout == f"{id} enabled\n"
    assert http.get(f"/v1/webhooks/{id}").json()["enabled"]


def test_a_wrong_webhook_is_a_wrong_input(ranksieve):
    done = ranksieve("webhooks", "create", "http://127.0.0.1/")

    assert done.exit_code == 2
    assert done.stderr.startswith("url: must begin with https")
