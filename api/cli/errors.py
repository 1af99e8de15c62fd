"""Errors on the command line: one line each on stderr and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http import HTTPStatus
from typing import Any

import typer
from typer.core import TyperGroup

from ranksieve.api.cli.output.terminal import echo_json, plain, stdout_to_stderr
from ranksieve.api.client.connection import ApiError
from ranksieve.api.spec_errors import ROOT, SpecError, line_of
from ranksieve.search.errors import InputError, RanksieveError

FAILED, USAGE, INTERRUPTED = 1, 2, 130


class ReportingGroup(TyperGroup):
    """Command group that turns errors into lines on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except RanksieveError as error:
            for line in _lines(error):
                typer.echo(line, err=True)
            raise typer.Exit(exit_code(error)) from None
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            typer.echo(f"error: {place}{error.strerror or error}", err=True)
            raise typer.Exit(FAILED) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


def exit_code(error: RanksieveError) -> int:
    """Return 2 for wrong user input, else 1."""
    return USAGE if isinstance(error, SpecError | InputError) or _is_refusal(error) else FAILED


@contextmanager
def only_json(wanted: bool) -> Iterator[None]:
    """Keep everything but JSON off stdout, if `wanted`; print a refusal as JSON too."""
    try:
        with stdout_to_stderr() if wanted else nullcontext():
            yield
    except RanksieveError as error:
        if wanted:
            echo_json(rejection(error))
        raise


def rejection(error: RanksieveError) -> dict[str, Any]:
    """Return what `--json` prints if no job was created."""
    known = ("field", "detail", "where")
    fields = [{key: field[key] for key in known if key in field} for field in _fields(error)]
    code = "input" if exit_code(error) == USAGE else "infrastructure"
    message = error.detail if isinstance(error, ApiError) else str(error)
    return {
        "job_id": None,
        "state": "rejected",
        "error": {"code": code, "message": message, "errors": fields},
    }


def _lines(error: RanksieveError) -> list[str]:
    lines = [line_of(field) for field in _fields(error)] or [f"error: {error}"]
    # Library messages may span lines; records and servers may hold terminal control codes.
    return [plain(" ".join(one.split())).plain for one in lines]


def _fields(error: RanksieveError) -> list[dict[str, str]]:
    if isinstance(error, SpecError):
        return error.errors
    if isinstance(error, InputError):
        return [{"field": error.field or ROOT, "detail": error.message}]
    return error.errors if isinstance(error, ApiError) else []


def _is_refusal(error: RanksieveError) -> bool:
    return isinstance(error, ApiError) and error.status == HTTPStatus.UNPROCESSABLE_ENTITY
