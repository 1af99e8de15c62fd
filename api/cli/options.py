"""Options and dependencies shared by the files of commands."""

from pathlib import Path
from typing import Annotated

import typer

from ranksieve.api.cli.deps import Parts

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
