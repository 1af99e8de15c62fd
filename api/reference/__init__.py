"""Reference pages, rendered from the code that they describe by `make docs`.

Holds the pages and their Markdown blocks. Knows nothing of routes or commands, which `api.cli.reference` renders.
"""

from pathlib import Path

FOLDER = Path(__file__).parent / "pages"
