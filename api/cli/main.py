"""Command line: `ranksieve serve | run | export | evaluate | dense | …`.

Other modules add their groups of commands. Exit codes: 0 success, 1 the job or the server failed, 2 a wrong spec or
wrong usage, 130 Ctrl-C. Progress goes to stderr, results go to stdout.
"""

from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ranksieve.api.cli import cache, compare, docs, explain, init, jobs, keys, plot, report, webhooks
from ranksieve.api.cli.deps import Parts
from ranksieve.api.cli.errors import FAILED, ReportingGroup, only_json
from ranksieve.api.cli.follow import Outcome, finish, follow, run_job, tell_of_unfinished
from ranksieve.api.cli.ids import full_id
from ranksieve.api.cli.options import (
    DEFAULT_URL,
    ApiKey,
    AsJson,
    DataDir,
    JobId,
    Output,
    Roots,
    Sets,
    SpecFile,
    Url,
    client_of,
    parts_of,
)
from ranksieve.api.cli.output.results import result_table
from ranksieve.api.cli.output.tables import estimate_table, values_table
from ranksieve.api.cli.output.terminal import echo_json, log_beside, stdout
from ranksieve.api.cli.spec_file import load_spec

app = typer.Typer(
    name="ranksieve",
    cls=ReportingGroup,
    help="How small can a language model be and still do your task?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(init.app)
app.add_typer(explain.app)
app.add_typer(jobs.app)
app.add_typer(compare.app)
app.add_typer(report.app)
app.add_typer(plot.app)
app.add_typer(docs.app)
app.add_typer(cache.app, name="cache")
app.add_typer(keys.app, name="keys")
app.add_typer(webhooks.app, name="webhooks")


class Split(StrEnum):
    """Splits of a task's data that a model can be evaluated on."""

    SEARCH = "search"
    CONFIRM = "confirm"
    TEST = "test"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ranksieve {version('ranksieve')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def serve(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="0 for any free port.", show_default="8765")] = None,
    data_dir: DataDir = None,
    root: Roots = None,
) -> None:
    """Serve the REST API and run jobs until Ctrl-C."""
    from ranksieve.api.http.server import serve as serve_forever
    from ranksieve.api.http.settings import settings_from
    from ranksieve.service.server import logs

    settings = settings_from(host=host, port=port, data_dir=data_dir, roots=root)
    logs.configure(settings.log_format, settings.secrets)
    serve_forever(
        settings, parts_of(ctx).build, lambda url: typer.echo(f"ranksieve listens on {url}", err=True)
    )


@app.command()
def run(
    ctx: typer.Context,
    spec: SpecFile,
    changes: Sets = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    root: Roots = None,
) -> None:
    """Run one job from start to end in this process, without a server."""
    with only_json(as_json):
        outcome = _run(parts_of(ctx), spec, changes, data_dir, root)
    finish(outcome, as_json=as_json)


@app.command()
def estimate(
    ctx: typer.Context,
    spec: SpecFile,
    changes: Sets = None,
    as_json: AsJson = False,
    data_dir: DataDir = None,
    root: Roots = None,
) -> None:
    """Check a job and estimate its tokens, memory, disk and time; start nothing."""
    from ranksieve.api.http.settings import local_settings

    with only_json(as_json):
        log_beside(Console(stderr=True))
        settings = local_settings(data_dir, *(root or ()), spec.resolve().parent)
        job = load_spec(spec, settings.roots, changes=changes)
        values = parts_of(ctx).build(settings).estimate(job)
    if as_json:
        echo_json(values)
    else:
        stdout().print(estimate_table(values))


@app.command()
def export(
    ctx: typer.Context,
    job_id: JobId,
    output: Output,
    share: Annotated[
        float | None, typer.Option(help="The best model that keeps at most this share of the parameters.")
    ] = None,
    candidate: Annotated[int | None, typer.Option(help="Id of the candidate to export instead.")] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Export from this directory's jobs, without a server.")
    ] = None,
    root: Roots = None,
) -> None:
    """Export another size or candidate of a succeeded job, and download it."""
    with client_of(ctx, url, api_key, data_dir, root) as client:
        console = Console(stderr=True)
        if data_dir is not None:
            tell_of_unfinished(client, console)
        made = client.export(full_id(client, job_id), share=share, candidate=candidate)
        outcome = follow(client, made["id"], console)
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
    from ranksieve.api.http.settings import local_settings

    with only_json(as_json):
        log_beside(Console(stderr=True))
        settings = local_settings(data_dir, *(root or ()), model_dir, spec.resolve().parent)
        job = load_spec(spec, settings.roots)
        values = parts_of(ctx).evaluate(settings, model_dir.resolve(), job, split.value)
    if as_json:
        echo_json(values)
    else:
        stdout().print(values_table(values))


@app.command()
def dense(
    ctx: typer.Context,
    model_dir: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="Exported model folder.")],
    output: Output,
) -> None:
    """Multiply an exported model out, for tools that load only the dense architecture."""
    parts_of(ctx).multiply_out(model_dir.resolve(), output.resolve())
    typer.echo(output)


@app.command()
def quantize(
    ctx: typer.Context,
    model_dir: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="Exported model folder.")],
    output: Output,
    bits: Annotated[int, typer.Option(help="Bits of a weight on disk: 4 or 8.")] = 4,
) -> None:
    """Round an exported model's weights to few bits on disk, embeddings included."""
    parts_of(ctx).quantize(model_dir.resolve(), output.resolve(), bits)
    typer.echo(output)


@app.command()
def push(
    ctx: typer.Context,
    model_dir: Annotated[
        Path, typer.Argument(metavar="MODEL_DIR", help="Exported model folder, or a copy of one.")
    ],
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="Repository on the Hugging Face hub.")
    ],
    public: Annotated[bool, typer.Option("--public", help="Let everyone see the repository.")] = False,
) -> None:
    """Upload an exported model to the Hugging Face hub, to a private repository."""
    typer.echo(parts_of(ctx).push(model_dir.resolve(), repository, public))


@app.command()
def demo(
    ctx: typer.Context,
    data_dir: DataDir = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    effort: Annotated[str, typer.Option(help="quick, normal or thorough.")] = "normal",
    as_json: AsJson = False,
) -> None:
    """Prune a small real model on a real task, in minutes."""
    options = {"seed": seed, "effort": effort}
    raise typer.Exit(parts_of(ctx).demo(data_dir=data_dir, as_json=as_json, **options))


def main() -> None:
    """Entry point of the `ranksieve` command."""
    app()


def _run(
    parts: Parts,
    spec_file: Path,
    changes: list[str] | None,
    data_dir: Path | None,
    roots: list[Path] | None,
) -> Outcome:
    """Run the job of a spec file in this process."""
    from ranksieve.api.cli.embedded import embedded
    from ranksieve.api.http.settings import local_settings

    console = Console(stderr=True)
    settings = local_settings(data_dir, *(roots or ()), spec_file.resolve().parent)
    spec = load_spec(spec_file, settings.roots, changes=changes)
    log_beside(console)
    with embedded(parts.build(settings)) as client:
        return run_job(client, spec, console)
