"""Markdown blocks: tables, headings and the anchors that readers make of them."""

import json
import re
from collections.abc import Iterable, Sequence


def anchor(heading: str) -> str:
    """The fragment that leads to a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def code(value: object) -> str:
    """A value as JSON, or a text as it is, in a code span."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{text}`" if text.strip() else f'`"{text}"`'


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, or nothing where there is no row."""
    lines = [_row(row) for row in rows]
    return "\n".join([_row(header), "|" + "---|" * len(header), *lines]) if lines else ""


def page(*blocks: str) -> str:
    """Blocks with an empty line between two; empty ones are left out."""
    return "\n\n".join(block.strip() for block in blocks if block.strip()) + "\n"


def paragraphs(docstring: str) -> str:
    """A docstring as paragraphs, whose line breaks mean nothing."""
    return "\n\n".join(" ".join(part.split()) for part in docstring.split("\n\n"))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
