"""The command line: `ranksieve serve | run | estimate | submit | watch | …`, one function per command.

Exit codes: 0 success, 1 the job or the server failed, 2 a wrong spec or wrong usage, 130 Ctrl-C. What a
person reads along the way goes to stderr, results go to stdout.
"""

import json
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler

from api import cache_commands, key_commands, webhook_commands
from api.client import Client
from api.failures import FAILED, INTERRUPTED, ReportingGroup, rejection
from api.follow import Outcome, follow, run_job
from api.options import DEFAULT_URL, ApiKey, DataDir, Url, parts_of, stdout
from api.parts import Parts
from api.spec_file import load_spec
from api.stdout import stdout_to_stderr
from api.tables import (
    estimate_table,
    finalists_table,
    jobs_table,
    models_table,
    result_table,
    values_table,
)
from search.errors import InputError, RanksieveError
from service.jobs import JobState

app = typer.Typer(
    name="ranksieve",
    cls=ReportingGroup,
    help="How small can a language model be and still do your task?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cache_commands.app, name="cache")
app.add_typer(key_commands.app, name="keys")
app.add_typer(webhook_commands.app, name="webhooks")


class Split(StrEnum):
    """Splits of a task's data that a model can be evaluated on."""

    SEARCH = "search"
    CONFIRM = "confirm"
    TEST = "test"


SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="Job file, YAML or JSON.")]
JobId = Annotated[str, typer.Argument(metavar="ID", help="Id of the job.")]
Roots = Annotated[list[Path] | None, typer.Option("--root", help="Folder that models and data may be in.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, the rest on stderr.")]


@app.command()
def serve(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="0 for any free one.", show_default="8765")] = None,
    data_dir: DataDir = None,
    root: Roots = None,
) -> None:
    """Serve the REST API and run jobs until Ctrl-C."""
    from api.server import serve as serve_forever
    from api.server_settings import settings_from
    from service import logs

    settings = settings_from(host=host, port=port, data_dir=data_dir, roots=root)
    logs.configure(settings.log_format, settings.secrets)
    serve_forever(
        settings, parts_of(ctx).build, lambda url: typer.echo(f"ranksieve listens on {url}", err=True)
    )


@app.command()
def run(
    ctx: typer.Context,
    spec: SpecFile,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    root: Roots = None,
) -> None:
    """Run one job here, from start to end, without a server."""
    with _only_json(as_json):
        outcome = _run(parts_of(ctx), spec, data_dir, root)
    _finish(outcome, as_json=as_json)


@app.command()
def estimate(
    ctx: typer.Context,
    spec: SpecFile,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    root: Roots = None,
) -> None:
    """Tell what a job will need - tokens, memory, disk, time - and check it; nothing is started."""
    from api.server_settings import local_settings

    with _only_json(as_json):
        _log_beside(Console(stderr=True))
        job = load_spec(spec)
        values = parts_of(ctx).build(local_settings(spec, data_dir, root or [])).estimate(job)
    if as_json:
        _echo_json(values)
    else:
        stdout().print(estimate_table(values))


@app.command()
def submit(
    ctx: typer.Context,
    spec: SpecFile,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job until it has ended.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Submit a job to a server and print its id."""
    document = load_spec(spec).canonical()
    with parts_of(ctx).connect(url, api_key) as client:
        job_id = client.submit(document)["id"]
        typer.echo(job_id)
        if watch:
            _watch(client, job_id)


@app.command("jobs")
def list_jobs(
    ctx: typer.Context,
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 20,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """List a server's jobs, newest first."""
    with parts_of(ctx).connect(url, api_key) as client:
        stdout().print(jobs_table(client.jobs(state=state, limit=limit)))


@app.command("models")
def list_models(
    ctx: typer.Context, as_json: AsJson = False, url: Url = DEFAULT_URL, api_key: ApiKey = None
) -> None:
    """List the local models that jobs of a server could start from."""
    with parts_of(ctx).connect(url, api_key) as client:
        listed = client.models()
    if as_json:
        _echo_json(listed)
    else:
        stdout().print(models_table(listed))


@app.command()
def watch(ctx: typer.Context, job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Follow a job until it has ended, through its pauses."""
    with parts_of(ctx).connect(url, api_key) as client:
        _watch(client, job_id)


@app.command()
def change(
    ctx: typer.Context,
    job_id: JobId,
    name: Annotated[str | None, typer.Option(help="Its name.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME:VALUE", help="Its labels, all of them.")
    ] = None,
    priority: Annotated[int | None, typer.Option(min=-100, max=100, help="The highest goes first.")] = None,
    actors: Annotated[int | None, typer.Option(min=1, max=4096, help="So many at most.")] = None,
    generations: Annotated[int | None, typer.Option(min=0, help="Limit of its search.")] = None,
    max_evaluations: Annotated[int | None, typer.Option(min=1, help="Limit of its search.")] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Change a job's name, labels, priority or actors, or the limits of its search while that goes on."""
    limits = {"generations": generations, "max_evaluations": max_evaluations}
    search = {key: value for key, value in limits.items() if value is not None}
    labels = None if label is None else dict(_label(one) for one in label)
    changes = {
        "name": name,
        "labels": labels,
        "priority": priority,
        "actors": actors,
        "search": search or None,
    }
    with parts_of(ctx).connect(url, api_key) as client:
        client.change(job_id, {key: value for key, value in changes.items() if value is not None})
    typer.echo(f"{job_id} changed")


@app.command()
def pause(ctx: typer.Context, job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Pause a job: what is being scored finishes and is kept, the next job gets the cluster."""
    with parts_of(ctx).connect(url, api_key) as client:
        job = client.pause(job_id)
    typer.echo(f"{job_id} {'pausing' if job['pause_requested'] else job['state']}")


@app.command()
def resume(ctx: typer.Context, job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Let a paused or crashed job go on from where it was."""
    with parts_of(ctx).connect(url, api_key) as client:
        typer.echo(f"{job_id} {client.resume(job_id)['state']}")


@app.command()
def stop(ctx: typer.Context, job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """End a job's search; what it has found is confirmed, tested and exported."""
    with parts_of(ctx).connect(url, api_key) as client:
        client.stop(job_id)
    typer.echo(f"{job_id} stopping")


@app.command()
def cancel(ctx: typer.Context, job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Cancel a job."""
    with parts_of(ctx).connect(url, api_key) as client:
        job = client.cancel(job_id)
    typer.echo(f"{job_id} {'cancelling' if job['state'] != JobState.CANCELLED else job['state']}")


@app.command()
def delete(ctx: typer.Context, job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Delete a job that has ended, with its files on the server."""
    with parts_of(ctx).connect(url, api_key) as client:
        client.delete(job_id)
    typer.echo(f"{job_id} deleted")


@app.command()
def download(
    ctx: typer.Context,
    job_id: JobId,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write to.")],
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Download the exported model of a job."""
    with parts_of(ctx).connect(url, api_key) as client:
        for path in client.download(job_id, output):
            typer.echo(path)


@app.command()
def export(
    ctx: typer.Context,
    job_id: JobId,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write to.")],
    share: Annotated[
        float | None, typer.Option(help="The best model that keeps at most this share of the parameters.")
    ] = None,
    candidate: Annotated[int | None, typer.Option(help="Or the candidate with this id.")] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Work here, without a server, on the jobs of this directory.")
    ] = None,
    root: Roots = None,
) -> None:
    """Make another size, or another candidate, of a job that succeeded, and download it."""
    with _client(parts_of(ctx), url, api_key, data_dir, root) as client:
        made = client.export(job_id, share=share, candidate=candidate)
        outcome = follow(client, made["id"], Console(stderr=True))
        if not outcome.succeeded:
            raise typer.Exit(FAILED)
        stdout().print(result_table(outcome.job["result"]))
        for path in client.download(made["id"], output):
            typer.echo(path)


@app.command()
def evaluate(
    ctx: typer.Context,
    model_dir: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="Exported or dense model folder.")],
    spec: SpecFile,
    split: Annotated[Split, typer.Option(help="Split of the spec's data to score.")] = Split.TEST,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    root: Roots = None,
) -> None:
    """Score a model folder on the task of a job file."""
    from api.server_settings import local_settings

    with stdout_to_stderr() if as_json else nullcontext():
        _log_beside(Console(stderr=True))
        settings = local_settings(spec, data_dir, [*(root or []), model_dir])
        values = parts_of(ctx).evaluate(settings, model_dir.resolve(), load_spec(spec), split.value)
    if as_json:
        _echo_json(values)
    else:
        stdout().print(values_table(values))


@app.command()
def demo(
    ctx: typer.Context,
    data_dir: DataDir = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    method: Annotated[str, typer.Option(help="task, output, input or weight.")] = "task",
    refine_epochs: Annotated[
        int, typer.Option(min=0, help="Passes over the data that train the factors; 0 trains nothing.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Prune a small real model on a real task, in minutes."""
    options = {"seed": seed, "method": method, "refine_epochs": refine_epochs}
    raise typer.Exit(parts_of(ctx).demo(data_dir=data_dir, as_json=as_json, **options))


def main() -> None:
    """Entry point of the `ranksieve` command."""
    app()


def _client(
    parts: Parts, url: str, api_key: str | None, data_dir: Path | None, roots: list[Path] | None
) -> AbstractContextManager[Client]:
    """A client of the server at a URL, or of one inside this process where a data directory is given."""
    if data_dir is None:
        return parts.connect(url, api_key)
    from api.embedded import embedded
    from api.server_settings import local_settings

    return embedded(parts.build(local_settings(data_dir, data_dir, roots or [])))


def _run(parts: Parts, spec_file: Path, data_dir: Path | None, roots: list[Path] | None) -> Outcome:
    """The job of a spec file, run in this process."""
    from api.embedded import embedded
    from api.server_settings import local_settings

    console = Console(stderr=True)
    spec = load_spec(spec_file)
    _log_beside(console)
    with embedded(parts.build(local_settings(spec_file, data_dir, roots or []))) as client:
        return run_job(client, spec, console)


def _label(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (name and colon):
        raise InputError("label", f"must be NAME:VALUE, got {text!r}")
    return name, value


def _watch(client: Client, job_id: str) -> None:
    _finish(follow(client, job_id, Console(stderr=True)), here=False)


def _finish(outcome: Outcome, *, here: bool = True, as_json: bool = False) -> None:
    """Print a job's outcome and leave with its exit code; why it failed was among its events.

    Where it ran `here`, its model is there already; else it has to be fetched.
    """
    if as_json:
        _echo_json(outcome.as_json())
    elif outcome.succeeded:
        result = outcome.job["result"]
        if result["objective"]["kind"] == "pareto" and "export" not in result:
            stdout().print(finalists_table(result))
        stdout().print(result_table(result))
        fetch = f"ranksieve download {outcome.job['id']} -o DIR"
        typer.echo(f"model: {result['artifact'] if here else fetch}")
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)
    if not outcome.succeeded:
        raise typer.Exit(FAILED)


@contextmanager
def _only_json(as_json: bool) -> Iterator[None]:
    """Keeps all but JSON off the standard output, if that is wanted; a refusal is printed as JSON, too."""
    try:
        with stdout_to_stderr() if as_json else nullcontext():
            yield
    except RanksieveError as error:
        if as_json:
            _echo_json(rejection(error))
        raise


def _echo_json(values: dict[str, Any]) -> None:
    typer.echo(json.dumps(values))


def _log_beside(console: Console) -> None:
    """Log warnings above the progress bars of a terminal, or as lines where there are none."""
    handler = (
        RichHandler(console=console, show_path=False) if console.is_terminal else logging.StreamHandler()
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
