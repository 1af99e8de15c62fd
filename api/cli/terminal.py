"""Other people's text for a terminal: as it is, but for what a terminal or its markup would obey."""

import json
from typing import Any
from unicodedata import category

import typer
from rich.console import Console
from rich.text import Text

_REPLACEMENT = "\ufffd"


_PIPE_COLUMNS = 120


def plain(text: str) -> Text:
    """The text without markup, with a replacement for every control character but line feeds."""
    return Text("".join(_REPLACEMENT if _commands(character) else character for character in text))


def _commands(character: str) -> bool:
    return category(character)[0] == "C" and character != "\n"


def stdout() -> Console:
    """Where tables go; a file or a pipe gets room for their widest rows."""
    console = Console()
    return console if console.is_terminal else Console(width=_PIPE_COLUMNS)


def echo_json(values: dict[str, Any]) -> None:
    """Prints one JSON object on stdout."""
    typer.echo(json.dumps(values))
