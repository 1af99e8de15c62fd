"""`ranksieve.sieve` around a service of fakes: the job that its arguments make, and how its end is told."""

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

import ranksieve
from ranksieve.api.cli.embedded import embedded
from ranksieve.api.client.connection import ApiError
from ranksieve.api.spec_errors import SpecError
from ranksieve.search.errors import (
    CancelledError,
    ConflictError,
    InfrastructureError,
    InputError,
    ScoringError,
)
from ranksieve.service import wiring
from ranksieve.service.server.settings import Settings

CHOICE = {"prompt": "{{ text }}", "answer": "{{ label }}", "choices": ["good", "bad"]}
ROWS = [{"text": "a joy", "label": "good"}]


@pytest.fixture
def here(build, tmp_path, monkeypatch):
    """Runs jobs of the folder `tmp_path` in this process; returns each with its spec and its server's settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False))
    made = []

    def remember(settings, *, in_children):
        assert not in_children  # a child would run the script of its user once more
        made.append(build(settings))
        return made[-1]

    monkeypatch.setattr(wiring, "build", remember)

    def run(*arguments, **options):
        sieved = ranksieve.sieve(*arguments, **options)
        spec = build(made[-1].settings).store.job(sieved.job_id).spec
        return SimpleNamespace(sieved=sieved, spec=spec, settings=made[-1].settings)

    return run


def test_import_is_light():
    heavy = "{'torch', 'ray', 'transformers', 'datasets', 'pyarrow', 'fastapi', 'sqlalchemy', 'pydantic'}"
    code = f"import sys, ranksieve; print(sorted({heavy} & sys.modules.keys()))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"
    assert not hasattr(ranksieve, "seive")


def test_a_job_of_names(here, tmp_path, result, capsys):
    ran = here("./model", "reviews.jsonl", max_drop=1, **CHOICE)

    task = ran.spec.task
    assert (ran.spec.model.path, task.data.source.path) == (
        str(tmp_path / "model"),
        str(tmp_path / "reviews.jsonl"),
    )
    assert (task.kind, task.prompt, task.answer, task.choices) == (
        "choice", "{{ text }}", "{{ label }}", ("good", "bad"),
    )  # fmt: skip
    assert (ran.spec.objective.kind, ran.spec.objective.points) == ("max_drop", 1)
    assert ran.settings.data_dir == tmp_path / ".ranksieve"
    assert ran.sieved.result == result
    assert str(ran.sieved.folder) == result["artifact"]
    assert "block parameters" in ran.sieved.summary
    assert "\x1b" not in ran.sieved.summary
    printed = capsys.readouterr()
    assert "generation 0: 12 evaluations" in printed.err
    assert printed.out == ""


def test_candidates_are_rows_of_plain_values(here, monkeypatch):
    monkeypatch.setattr("ranksieve.api.client.pages.PAGE", 1)

    rows = here("org/model", "reviews.jsonl", **CHOICE).sieved.candidates

    assert len({row["id"] for row in rows}) == len(rows) == 2
    for row in rows:
        assert row.keys() >= {"kept_share", "loss_nats", "drop_points", "generation"}
        assert not any(isinstance(value, list | dict) for value in row.values())


def test_a_copy_of_the_model_in_silence(here, tmp_path, capfd):
    sieved = here("org/model", "a.csv", output="small", progress=False, **CHOICE).sieved

    assert sieved.folder == tmp_path / "small"
    assert (tmp_path / "small" / "config.json").is_file()
    assert capfd.readouterr() == ("", "")


def test_records_of_memory_stay_in_the_data_directory(here, tmp_path):
    ran = here("org/model", ROWS, data_dir=tmp_path / "jobs", **CHOICE)

    [file] = (tmp_path / "jobs" / "records").iterdir()
    assert ran.spec.task.data.source.path == str(file)
    assert [path.name for path in tmp_path.iterdir()] == ["jobs"]
    assert (tmp_path / "jobs").stat().st_mode & 0o077 == 0


def test_named_folders_may_be_read(here, tmp_path, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    (other / "model").mkdir()
    (other / "store").mkdir()
    (other / "store" / "blob").touch()
    (other / "reviews.csv").symlink_to(other / "store" / "blob")

    ran = here(other / "model", other / "reviews.csv", **CHOICE)

    assert ran.settings.roots == [other / "model", other / "store", tmp_path, tmp_path / ".ranksieve"]


@pytest.mark.parametrize(
    ("options", "kind", "objective"),
    [
        ({"prompt": "{{ text }}"}, "generate", {"kind": "max_drop", "points": 2, "confidence": 0.8}),
        ({"prompt": "{{ text }}", "kind": "lm"}, "lm", {"kind": "max_drop", "points": 2, "confidence": 0.8}),
        ({"share": 0.4}, "lm", {"kind": "target_params", "share": 0.4}),
    ],
)
def test_kind_and_objective(here, options, kind, objective):
    spec = here("org/model", "a.csv", answer="{{ text }}", **options).spec

    assert (spec.task.kind, spec.objective.model_dump()) == (kind, objective)


def test_sections_of_a_job_file(here):
    model = {"hub": "org/model", "dtype": "float32"}
    task = {"chat_template": True, "data": {"sizes": {"test": 99}}}

    spec = here(
        model, "a.csv", task=task, objective="pareto", labels={"a": "b"}, effort="quick", seed=3, **CHOICE
    ).spec

    assert (spec.model.hub, spec.model.dtype, spec.effort, spec.seed) == ("org/model", "float32", "quick", 3)
    assert (spec.task.chat_template, spec.task.data.sizes["test"]) == (True, 99)
    assert (spec.task.data.source.path is not None, spec.task.prompt) == (True, "{{ text }}")
    assert (spec.objective.kind, spec.labels) == ("pareto", {"a": "b"})


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"max_dorp": 1}, SpecError, "max_dorp"),
        ({"effort": "slow"}, SpecError, "effort"),
        ({"choices": ["good"]}, SpecError, "task.choices"),
        ({"max_drop": 1, "share": 0.5}, InputError, "objective: .*got max_drop and share"),
        ({"share": 0.5, "objective": "pareto"}, InputError, "objective: .*got share and objective"),
        ({"output": "."}, InputError, "output: expected a new or an empty folder"),
        ({"output": "notes"}, InputError, "output: expected a new or an empty folder"),
        ({"server": "127.0.0.1"}, InputError, "url: invalid server URL"),
    ],
)
def test_wrong_arguments_start_nothing(here, tmp_path, options, kind, words):
    (tmp_path / "notes").touch()

    with pytest.raises(kind, match=words):
        here("org/model", "a.csv", **CHOICE | options)
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]


def test_a_ray_of_the_caller_is_left_alone(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: True))

    with pytest.raises(ConflictError, match=r"ray\.shutdown"):
        here("org/model", "a.csv", **CHOICE)


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (InputError("task.answer", "no field 'body'"), InputError, "^task.answer: no field 'body'$"),
        (ScoringError("17 of 20 candidates failed"), ScoringError, "failed: 17 of 20 candidates failed$"),
        (InfrastructureError("no memory"), InfrastructureError, "crashed: no memory$"),
        (RuntimeError("a bug"), InfrastructureError, "failed: unexpected RuntimeError"),
    ],
)
def test_a_job_that_fails_raises_its_error(here, pipeline, failure, kind, words):
    pipeline.failure = failure

    with pytest.raises(kind, match=words):
        here("org/model", "a.csv", **CHOICE)


def test_a_call_that_was_cut_off_goes_on(here, pipeline, build, tmp_path):
    pipeline.failure = InfrastructureError("Ray is gone")
    with pytest.raises(InfrastructureError):
        here("org/model", ROWS, **CHOICE)
    pipeline.failure = None

    ran = here("org/model", ROWS, **CHOICE)

    assert [job.id for job in build(ran.settings).store.jobs()] == [ran.sieved.job_id]


@pytest.fixture
def interrupting(pipeline):
    """A pipeline whose user presses Ctrl-C in mid-search, also where the tests ignore it."""

    class Interrupting(pipeline.__class__):
        def __call__(self, job, log):
            os.kill(os.getpid(), signal.SIGINT)
            return super().__call__(job, log)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    pipeline.__class__ = Interrupting
    pipeline.go.clear()
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_cancels_the_job(here, interrupting, build, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        here("org/model", "a.csv", **CHOICE)

    [job] = build(Settings(data_dir=tmp_path / ".ranksieve")).store.jobs()
    assert job.state == "cancelled"


@pytest.fixture
def server(build, tmp_path, monkeypatch):
    """A server with a key, which the environment has; yields a client of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANKSIEVE_API_KEY", "s3cret")
    with embedded(build(Settings(data_dir=tmp_path / "server", api_key="s3cret"))) as client:
        yield client


def test_a_job_on_a_server(server, tmp_path, result):
    url = server.connection.url

    sieved = ranksieve.sieve("./model", "reviews.jsonl", server=url, **CHOICE)
    named = ranksieve.sieve("./model", "reviews.jsonl", server=url, output="small", **CHOICE)

    spec = server.job(sieved.job_id)["spec"]
    assert (spec["model"]["path"], spec["task"]["data"]["source"]["path"]) == ("./model", "reviews.jsonl")
    assert sieved.folder == tmp_path / ".ranksieve" / "downloads" / sieved.job_id
    assert (sieved.folder / "config.json").is_file()
    assert (tmp_path / "small" / "config.json").is_file()
    assert sieved.result["genome"] == result["genome"]
    assert named.job_id != sieved.job_id


def test_a_server_gets_no_records_of_memory(server):
    with pytest.raises(InputError, match=r"data: expected a file that the server may read, .*got list"):
        ranksieve.sieve("org/model", ROWS, server=server.connection.url, **CHOICE)
    assert server.jobs() == []


def test_a_server_without_the_key(server, monkeypatch):
    monkeypatch.setenv("RANKSIEVE_API_KEY", "other")

    with pytest.raises(ApiError, match="401"):
        ranksieve.sieve("org/model", "a.csv", server=server.connection.url, **CHOICE)


def test_an_interrupt_cancels_the_job_of_a_server(server, interrupting):
    with pytest.raises(KeyboardInterrupt):
        ranksieve.sieve("org/model", "a.csv", server=server.connection.url, **CHOICE)

    assert [job["state"] for job in server.jobs()] == ["cancelled"]


def test_a_job_that_another_client_cancels(server, pipeline):
    class Cancelled(pipeline.__class__):
        def __call__(self, job, log):
            server.cancel(job.id)
            return super().__call__(job, log)

    pipeline.__class__ = Cancelled
    pipeline.go.clear()

    with pytest.raises(CancelledError, match=r"was cancelled$"):
        ranksieve.sieve("org/model", "a.csv", server=server.connection.url, **CHOICE)
