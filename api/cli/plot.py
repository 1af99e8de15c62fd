"""`ranksieve plot`: one job as a figure."""

from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from ranksieve.api.cli.ids import full_id
from ranksieve.api.cli.options import DEFAULT_URL, ApiKey, JobId, Url, client_of
from ranksieve.api.cli.output.terminal import plain
from ranksieve.api.cli.rivals_file import RivalsFile, check_rivals, read_rivals
from ranksieve.api.client.client import Client
from ranksieve.api.client.connection import ApiError
from ranksieve.api.client.pages import all_candidates, all_generations, past_events
from ranksieve.api.plots.files import check_file, save
from ranksieve.api.plots.found import EVENTS, EXPORTED_MODEL, FIELDS, Found, Ranks, found_by
from ranksieve.api.plots.segments import Segment, Segments
from ranksieve.search.errors import NotFoundError

Answer = TypeVar("Answer")

app = typer.Typer()

_LACKING = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
"""Answers about parts of a job that its server has not, or no longer."""


@app.command()
def plot(
    ctx: typer.Context,
    job_id: JobId,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Figure to write: .svg, .png or .pdf.")
    ],
    rivals: RivalsFile = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Draw a job of this directory, without a server.")
    ] = None,
) -> None:
    """Draw a job: size against loss, best loss by generation, and the rank map."""
    check_file(output)
    compared = None if rivals is None else read_rivals(rivals)
    with client_of(ctx, url, api_key, data_dir, runs_jobs=False) as client:
        job = client.job(full_id(client, job_id))
        if compared is not None:
            check_rivals(compared, job)
        values = _read(client, job)
    from ranksieve.api.plots.job import job_figure

    save(job_figure(job, *values, compared), output)
    typer.echo(output)


def _read(client: Client, job: Mapping[str, Any]) -> tuple[Found, list[Segment], Ranks | None]:
    """Return what the figure of a job shows.

    Raises:
        NotFoundError: There is nothing to show yet.
    """
    id = job["id"]
    events = [] if job["result"] else _if_kept(lambda: past_events(client, id, EVENTS)) or []
    found = found_by(job, all_candidates(client, id, FIELDS), events)
    segments = _segments(client, job)
    ranks = _ranks(client, job)
    if not (found.candidates or found.finalists or segments or ranks):
        raise NotFoundError(
            f"job {id} is {job['state']} and has scored no candidate; plot a job whose search has begun"
        )
    return found, segments, ranks


def _segments(client: Client, job: Mapping[str, Any]) -> list[Segment]:
    """Return the segments of a search that tries one size after another."""
    segments = Segments()
    if job["spec"]["objective"]["kind"] != "pareto":
        for record in all_generations(client, job["id"]):
            segments.add(record)
    return segments.all


def _ranks(client: Client, job: Mapping[str, Any]) -> Ranks | None:
    """Return the ranks of the exported model, or else of the front's smallest one."""
    id = job["id"]
    if job["result"]:
        ranks = _if_kept(lambda: client.ranks(id))
        return None if ranks is None else (EXPORTED_MODEL, ranks)
    front = client.candidates(id, pareto=True, limit=1, fields=["id", "kept_share"])
    if not front:
        return None
    [one] = front
    ranks = _if_kept(lambda: client.ranks(id, candidate=one["id"]))
    name = f"candidate {one['id']}, {100 * one['kept_share']:.1f} % kept"
    return None if ranks is None else (name, ranks)


def _if_kept(ask: Callable[[], Answer]) -> Answer | None:
    """Return an answer, or None where the server has no such thing any more.

    What the server says goes to stderr.
    """
    try:
        return ask()
    except ApiError as error:
        if error.status not in _LACKING:
            raise
        typer.echo(f"left out: {plain(error.detail)}", err=True)
        return None
