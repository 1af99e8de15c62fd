"""Reference pages, rendered from the code that they describe; `make docs` writes them anew.

Holds the pages and the Markdown that they are made of. Knows nothing of routes or commands: those render themselves in
`api.cli.reference`.
"""

from pathlib import Path

FOLDER = Path(__file__).parent / "pages"
