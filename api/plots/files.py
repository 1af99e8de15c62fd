"""Files that figures are written to."""

from pathlib import Path
from typing import TYPE_CHECKING

from ranksieve.search.errors import InputError
from ranksieve.workers.machine.extras import require_extra

if TYPE_CHECKING:  # takes a second to import
    from matplotlib.figure import Figure

_UNDATED = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}
"""Metadata of each kind of file without the time of drawing, so that the same figure is the same file."""


def check_file(path: Path) -> None:
    """Check that a figure can be drawn to a file, before any work starts.

    Raises:
        InputError: The file's suffix is of no kind of picture that is drawn, or its folder does not exist.
        InfrastructureError: The library that draws is not installed.
    """
    if path.suffix not in _UNDATED:
        raise InputError("--output", f"expected a name that ends in .svg, .png or .pdf; got {path.name!r}")
    if not path.resolve().parent.is_dir():
        raise InputError("--output", f"no such folder: {path.parent}; create it first")
    require_matplotlib()


def require_matplotlib() -> None:
    """Check that the library that draws is installed.

    Raises:
        InfrastructureError: It is not; says how to install it.
    """
    require_extra("plot", ["matplotlib"])


def save(figure: "Figure", path: Path) -> None:
    """Write a figure to a file of the kind that its suffix names."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "ranksieve"}):
        figure.savefig(path, dpi=150, metadata=_UNDATED[path.suffix])
