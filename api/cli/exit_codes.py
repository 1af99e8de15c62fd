"""End of a command that followed a job: its outcome on stdout and an exit code."""

import typer

from ranksieve.api.cli.errors import FAILED, INTERRUPTED
from ranksieve.api.cli.follow import Outcome
from ranksieve.api.cli.tables import finalists_table, result_table
from ranksieve.api.cli.terminal import echo_json, stdout


def finish(outcome: Outcome, *, here: bool = True, as_json: bool = False) -> None:
    """Print a job's outcome and exit with its exit code.

    The reason of a failure was among the job's events. With `here` the model is on this machine, else it has to be
    downloaded.
    """
    if as_json:
        echo_json(outcome.as_json())
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
