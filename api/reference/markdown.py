"""Markdown blocks: tables, headings and their anchors."""

import json
import re
from collections.abc import Iterable, Sequence


def anchor(heading: str) -> str:
    """Return the fragment that links to a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def code(value: object) -> str:
    """Format a text, or a value as JSON, as a code span."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"`{text}`" if text.strip() else f'`"{text}"`'


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table; empty without rows."""
    lines = [_row(row) for row in rows]
    return "\n".join([_row(header), "|" + "---|" * len(header), *lines]) if lines else ""


def page(*blocks: str) -> str:
    """Join blocks with empty lines between them, without empty blocks."""
    return "\n\n".join(block.strip() for block in blocks if block.strip()) + "\n"


def paragraphs(docstring: str) -> str:
    """Join the lines of each paragraph of a docstring."""
    return "\n\n".join(" ".join(part.split()) for part in docstring.split("\n\n"))


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
