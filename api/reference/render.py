"""All reference pages, rendered from the code and written to a folder."""

from collections.abc import Mapping
from pathlib import Path

from ranksieve.api.reference import commands, job_file, problems, routes, settings

_RENDERERS = {
    "job-file": job_file.render,
    "routes": routes.render,
    "commands": commands.render,
    "settings": settings.render,
    "errors": problems.render,
}


def render() -> Mapping[str, str]:
    """Every page as Markdown, by its name."""
    return {name: renderer() for name, renderer in _RENDERERS.items()}


def write(folder: Path) -> list[Path]:
    """Write every page to a folder.

    Returns:
        The files, in the order of the pages.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, text in render().items():
        file = folder / f"{name}.md"
        file.write_text(text, encoding="utf-8")
        files.append(file)
    return files
