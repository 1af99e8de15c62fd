"""Reference pages, rendered from the code that they describe.

Knows how to lay out a field, a route or an option, and not one sentence about any of them: each description stands
beside what it describes. `pages/` holds the rendered pages; `make docs` writes them anew.
"""

from pathlib import Path

FOLDER = Path(__file__).parent / "pages"
