"""Stdout and stderr: untrusted text made safe, tables, and one JSON object alone."""

import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any
from unicodedata import category

import typer
from rich.console import Console, RenderableType
from rich.logging import RichHandler
from rich.text import Text

_REPLACEMENT = "\ufffd"
_PIPE_COLUMNS = 120
_STDOUT, _STDERR = 1, 2


def plain(text: str) -> Text:
    """Sanitize untrusted text: no markup, no control characters but line feeds."""
    return Text("".join(_REPLACEMENT if _commands(character) else character for character in text))


def _commands(character: str) -> bool:
    return category(character)[0] == "C" and character != "\n"


def stdout() -> Console:
    """Return the console for tables; files and pipes get room for the widest rows."""
    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_COLUMNS)


def text_of(*renderables: RenderableType) -> str:
    """Return tables as plain text, as wide as `stdout` prints them to a pipe."""
    text = io.StringIO()
    console = Console(file=text, width=_PIPE_COLUMNS, force_terminal=False, force_jupyter=False)
    console.print(*renderables, sep="\n")
    return text.getvalue()


def echo_json(values: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    typer.echo(json.dumps(values))


@contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send everything written to stdout to stderr, including from child processes."""
    sys.stdout.flush()
    kept = os.dup(_STDOUT)
    os.dup2(_STDERR, _STDOUT)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, _STDOUT)
        os.close(kept)


def log_beside(console: Console) -> None:
    """Log warnings above a terminal's progress bars, or as lines elsewhere."""
    handler = (
        RichHandler(console=console, show_path=False) if console.is_terminal else logging.StreamHandler()
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
