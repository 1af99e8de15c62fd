"""All reference pages, rendered from the code and written to a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ranksieve.api.cli.reference import commands, job_file, problems, routes, settings


def render(command: Any) -> Mapping[str, str]:
    """Return every page as Markdown, by name.

    Args:
        command: The root command of the command line.
    """
    return {
        "job-file": job_file.render(),
        "routes": routes.render(),
        "commands": commands.render(command),
        "settings": settings.render(),
        "errors": problems.render(),
    }


def write(folder: Path, command: Any) -> list[Path]:
    """Write every page to a folder; see `render`.

    Returns:
        The files, in the order of the pages.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, text in render(command).items():
        file = folder / f"{name}.md"
        file.write_text(text, encoding="utf-8")
        files.append(file)
    return files
