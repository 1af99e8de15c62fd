"""`ranksieve docs`: the reference as Markdown pages."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def docs(
    ctx: typer.Context,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write to.")] = Path(
        "docs"
    ),
) -> None:
    """Write the reference as Markdown pages.

    The pages cover the job file, routes, commands, settings and errors.
    """
    from ranksieve.api.cli.reference.render import (
        write,  # renders the routes, whose modules take long to import
    )

    for file in write(output, ctx.find_root().command):
        typer.echo(file)
