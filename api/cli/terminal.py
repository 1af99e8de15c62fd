"""Other people's text for a terminal: as it is, but for what a terminal or its markup would obey."""

from unicodedata import category

from rich.text import Text

_REPLACEMENT = "\ufffd"


def plain(text: str) -> Text:
    """The text without markup, with a replacement for every control character but line feeds."""
    return Text("".join(_REPLACEMENT if _commands(character) else character for character in text))


def _commands(character: str) -> bool:
    return category(character)[0] == "C" and character != "\n"
