"""Commands for the jobs of a server: `ranksieve submit | jobs | watch | …`."""

from typing import Annotated

import typer
from rich.console import Console

from ranksieve.api.cli.errors import only_json
from ranksieve.api.cli.follow import finish, follow
from ranksieve.api.cli.ids import full_id
from ranksieve.api.cli.options import (
    DEFAULT_URL,
    ApiKey,
    AsJson,
    JobId,
    Output,
    Sets,
    SpecFile,
    Url,
    parts_of,
)
from ranksieve.api.cli.output.tables import jobs_table, models_table
from ranksieve.api.cli.output.terminal import echo_json, stdout
from ranksieve.api.cli.spec_file import load_spec
from ranksieve.api.client.client import Client
from ranksieve.search.errors import InputError
from ranksieve.service.job.job import JobState

app = typer.Typer()


@app.command()
def submit(
    ctx: typer.Context,
    spec: SpecFile,
    changes: Sets = None,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job until it has ended.")] = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Submit a job to a server and print its id."""
    document = load_spec(spec, changes=changes).canonical()
    with parts_of(ctx).connect(url, api_key) as client:
        job_id = client.submit(document)["id"]
        typer.echo(job_id)
        if watch:
            _watch(client, job_id)


@app.command("jobs")
def list_jobs(
    ctx: typer.Context,
    state: Annotated[list[JobState] | None, typer.Option(help="Only jobs in one of these states.")] = None,
    search: Annotated[str | None, typer.Option(help="Only jobs with this in their name or owner.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 20,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """List a server's jobs, newest first."""
    with parts_of(ctx).connect(url, api_key) as client:
        stdout().print(jobs_table(client.jobs(states=state or (), search=search, limit=limit)))


@app.command("models")
def list_models(
    ctx: typer.Context, as_json: AsJson = False, url: Url = DEFAULT_URL, api_key: ApiKey = None
) -> None:
    """List the local models that jobs of a server could start from."""
    with only_json(as_json), parts_of(ctx).connect(url, api_key) as client:
        listed = client.models()
    if as_json:
        echo_json(listed)
    else:
        stdout().print(models_table(listed))


@app.command()
def watch(ctx: typer.Context, job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Follow a job until it has ended, through its pauses."""
    with parts_of(ctx).connect(url, api_key) as client:
        job_id = full_id(client, job_id)
        _watch(client, job_id)


@app.command()
def change(
    ctx: typer.Context,
    job_id: JobId,
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME:VALUE", help="New labels, replacing all others.")
    ] = None,
    priority: Annotated[int | None, typer.Option(min=-100, max=100, help="Higher runs earlier.")] = None,
    actors: Annotated[int | None, typer.Option(min=1, max=4096, help="Most actors.")] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Change a job's name, labels, priority or actors."""
    labels = None if label is None else dict(_label(one) for one in label)
    changes = {"name": name, "labels": labels, "priority": priority, "actors": actors}
    given = {key: value for key, value in changes.items() if value is not None}
    if not given:
        raise InputError("change", "nothing to change; give at least one option, see --help")
    with parts_of(ctx).connect(url, api_key) as client:
        job_id = full_id(client, job_id)
        client.change(job_id, given)
    typer.echo(f"{job_id} changed")


@app.command()
def pause(ctx: typer.Context, job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Pause a job at once; a resume continues from its last saved generation."""
    with parts_of(ctx).connect(url, api_key) as client:
        job_id = full_id(client, job_id)
        job = client.pause(job_id)
    typer.echo(f"{job_id} {'pausing' if job['pause_requested'] else job['state']}")


@app.command()
def resume(ctx: typer.Context, job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Resume a paused or crashed job where it stopped."""
    with parts_of(ctx).connect(url, api_key) as client:
        job_id = full_id(client, job_id)
        typer.echo(f"{job_id} {client.resume(job_id)['state']}")


@app.command()
def stop(ctx: typer.Context, job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Stop a job's search; its best models are confirmed, tested and exported."""
    with parts_of(ctx).connect(url, api_key) as client:
        job_id = full_id(client, job_id)
        client.stop(job_id)
    typer.echo(f"{job_id} stopping")


@app.command()
def cancel(ctx: typer.Context, job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Cancel a job."""
    with parts_of(ctx).connect(url, api_key) as client:
        job_id = full_id(client, job_id)
        job = client.cancel(job_id)
    typer.echo(f"{job_id} {'cancelling' if job['state'] != JobState.CANCELLED else job['state']}")


@app.command()
def delete(ctx: typer.Context, job_id: JobId, url: Url = DEFAULT_URL, api_key: ApiKey = None) -> None:
    """Delete a job that has ended, with its files on the server."""
    with parts_of(ctx).connect(url, api_key) as client:
        job_id = full_id(client, job_id)
        client.delete(job_id)
    typer.echo(f"{job_id} deleted")


@app.command()
def download(
    ctx: typer.Context,
    job_id: JobId,
    output: Output,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Download the exported model of a job."""
    with parts_of(ctx).connect(url, api_key) as client:
        for path in client.download(full_id(client, job_id), output):
            typer.echo(path)


def _label(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (name and colon):
        raise InputError("label", f"must be NAME:VALUE, got {text!r}")
    return name, value


def _watch(client: Client, job_id: str) -> None:
    finish(follow(client, job_id, Console(stderr=True)), here=False)
