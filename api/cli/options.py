"""Options and dependencies shared by the files of commands."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from ranksieve.api.cli.deps import Parts
from ranksieve.api.client.client import Client

Url = Annotated[str, typer.Option(envvar="RANKSIEVE_URL", help="URL of the server.")]
ApiKey = Annotated[str | None, typer.Option(envvar="RANKSIEVE_API_KEY", help="API key of the server.")]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Database, job folders and caches.", show_default=".ranksieve"),
]
Roots = Annotated[list[Path] | None, typer.Option("--root", help="Folder that models and data may be in.")]
SpecFile = Annotated[Path, typer.Argument(metavar="SPEC", help="Job file, YAML or JSON.")]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="Value of one field, e.g. objective.points=1; as in YAML."
    ),
]
JobId = Annotated[str, typer.Argument(metavar="ID", help="Id of the job, or how it alone begins.")]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write to.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, the rest on stderr.")]
DEFAULT_URL = "http://127.0.0.1:8765"


def parts_of(ctx: typer.Context) -> Parts:
    """Return the dependencies of a command."""
    return ctx.obj if isinstance(ctx.obj, Parts) else Parts()


def client_of(
    ctx: typer.Context,
    url: str,
    api_key: str | None,
    data_dir: Path | None,
    roots: list[Path] | None = None,
    *,
    runs_jobs: bool = True,
) -> AbstractContextManager[Client]:
    """Return a client of a server, or of one in this process for a data directory.

    The one in this process goes on with the directory's unfinished jobs, if it `runs_jobs`.
    """
    if data_dir is None:
        return parts_of(ctx).connect(url, api_key)
    from ranksieve.api.cli.embedded import embedded
    from ranksieve.api.http.settings import local_settings, require_begun

    settings = local_settings(data_dir, *(roots or ()), data_dir.resolve().parent)
    require_begun(settings)
    return embedded(parts_of(ctx).build(settings), runs_jobs=runs_jobs)
