"""Text of others, made safe to print on a terminal."""

import json
from typing import Any
from unicodedata import category

import typer
from rich.console import Console
from rich.text import Text

_REPLACEMENT = "\ufffd"


_PIPE_COLUMNS = 120


def plain(text: str) -> Text:
    """Sanitize untrusted text: no markup, no control characters but line feeds."""
    return Text("".join(_REPLACEMENT if _commands(character) else character for character in text))


def _commands(character: str) -> bool:
    return category(character)[0] == "C" and character != "\n"


def stdout() -> Console:
    """Return the console for tables; files and pipes get room for the widest rows."""
    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_COLUMNS)


def echo_json(values: dict[str, Any]) -> None:
    """Print one JSON object on stdout."""
    typer.echo(json.dumps(values))
