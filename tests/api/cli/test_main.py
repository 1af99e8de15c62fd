"""All commands: wrong specs and usage, errors on stderr, help, and a fast start."""

import json
import re
import shutil
import subprocess
import sys
import sysconfig

import pytest
from typer.main import get_command

from ranksieve.api.cli import main
from ranksieve.search.errors import InputError
from ranksieve.service.server.settings import Settings


def test_bad_spec_has_the_messages_of_rest(ranksieve, shared, tmp_path, bad_spec):
    document, field = bad_spec
    path = tmp_path / "bad.yaml"
    path.write_text(json.dumps(document))
    over_rest = shared.post("/v1/jobs", json=document).json()["errors"]

    done = ranksieve("submit", path)

    assert (done.exit_code, done.stdout) == (2, "")
    printed = [line.split(": ", 1) for line in done.stderr.splitlines()]
    assert [detail for _, detail in printed] == [f"{e['field']}: {e['detail']}" for e in over_rest]
    assert printed[0][1].startswith(f"{field}: ")
    assert all(re.fullmatch(rf"{path}:1:\d+", where) for where, _ in printed)


def test_bad_spec_as_json(ranksieve, spec_file, spec):
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


def test_refusal_names_the_field(ranksieve, spec_file, preflight):
    preflight.error = InputError("task.data.source.path", "no such file: /data/reviews.jsonl")

    for command in ("run", "submit", "estimate"):
        done = ranksieve(command, spec_file)

        assert done.exit_code == 2
        assert done.stderr.splitlines() == ["task.data.source.path: no such file: /data/reviews.jsonl"]


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("none of:\n(1) a file,\n(2) a slow one.", "none of: (1) a file, (2) a slow one."),
        ("no record has \x1b]0;owned\x07", "no record has \ufffd]0;owned\ufffd"),
    ],
    ids=["lines of a library", "codes for a terminal"],
)
def test_refusal_is_one_plain_line(ranksieve, spec_file, preflight, said, shown):
    preflight.error = InputError("model.path", said)

    assert ranksieve("submit", spec_file).stderr == f"model.path: {shown}\n"


def test_missing_file_and_wrong_usage(ranksieve, spec_file):
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
def test_help_of_every_command(ranksieve, command):
    done = ranksieve(*command, "-h")

    assert done.exit_code == 0
    assert f"Usage: ranksieve {' '.join(command)}".strip() in done.stdout


@pytest.mark.parametrize(
    ("option", "printed"), [("--version", "ranksieve 0.1.0\n"), ("-h", "Usage: ranksieve")]
)
def test_start_beside_modules_of_the_same_names(tmp_path, option, printed):
    for name in ("ranksieve", "search", "torch", "numpy", "typer", "pydantic"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(__file__)")
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").write_text("raise SystemExit(__file__)")
    command = shutil.which("ranksieve", path=sysconfig.get_path("scripts"))
    assert command, "expected the package to be installed"

    done = subprocess.run([command, option], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert printed in done.stdout


def test_help_shows_the_defaults_of_settings(ranksieve):
    served = " ".join(ranksieve("serve", "--help").stdout.replace("│", " ").split())
    created = " ".join(ranksieve("webhooks", "create", "--help").stdout.replace("│", " ").split())

    for name in ("host", "port", "data_dir"):
        assert f"[default: ({Settings.model_fields[name].default})]" in served
    assert "[default: (those that" in created


def test_serve_a_network_without_a_key(ranksieve):
    done = ranksieve("serve", "--host", "0.0.0.0")

    assert done.exit_code == 2
    assert done.stderr.startswith("host: 0.0.0.0 is not a loopback address; set RANKSIEVE_API_KEY")


def test_serve_with_a_wrong_setting(ranksieve):
    done = ranksieve("serve", "--port", "70000")

    assert done.exit_code == 2
    assert done.stderr.startswith("port: Input should be less than or equal to 65535")


def test_start_without_heavy_imports():
    heavy = "torch", "ray", "transformers", "datasets", "deap", "fastapi", "sqlalchemy", "uvicorn"
    code = f"import sys, ranksieve.api.cli.main; sys.exit(', '.join(set({heavy}) & set(sys.modules)) or 0)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
