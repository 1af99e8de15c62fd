"""Documentation at `/docs`: reference pages as HTML, and Swagger UI.

Loads nothing from other servers; Swagger UI comes from an installed package. The pages are the Markdown files of
`api.reference`, which `/docs/NAME.md` serves unchanged.
"""

from functools import cache
from itertools import pairwise

from fastapi import FastAPI, HTTPException
from fastapi.responses import HTMLResponse, Response
from markdown_it import MarkdownIt
from markdown_it.token import Token
from starlette.staticfiles import StaticFiles

from ranksieve.api.reference import FOLDER
from ranksieve.api.reference.markdown import anchor

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
"""
_SWAGGER = f"""{_HEAD}<title>ranksieve API</title>
<link rel="icon" href="assets/favicon.png">
<link rel="stylesheet" href="assets/swagger-ui.css">
</head>
<body>
<div id="api"></div>
<script src="assets/swagger-ui-bundle.js"></script>
<script src="start.js"></script>
</body>
</html>
"""
_START = (
    "SwaggerUIBundle({ url: '../openapi.json', dom_id: '#api', deepLinking: true, validatorUrl: null });\n"
)
_STYLE = """:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { border: 1px solid; padding: 0.25rem 0.5rem; text-align: left; vertical-align: top; }
"""
_POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_HEADERS = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}


def add_pages(app: FastAPI) -> None:
    """Add the pages and their assets to an application."""

    @app.head("/docs", include_in_schema=False)
    @app.get("/docs", include_in_schema=False)
    def index() -> Response:
        return HTMLResponse(_index(), headers=_HEADERS)

    @app.head("/docs/api", include_in_schema=False)
    @app.get("/docs/api", include_in_schema=False)
    def swagger() -> Response:
        return HTMLResponse(_SWAGGER, headers=_HEADERS)

    @app.head("/docs/start.js", include_in_schema=False)
    @app.get("/docs/start.js", include_in_schema=False)
    def start() -> Response:
        return Response(_START, media_type="text/javascript", headers=_HEADERS)

    @app.head("/docs/style.css", include_in_schema=False)
    @app.get("/docs/style.css", include_in_schema=False)
    def style() -> Response:
        return Response(_STYLE, media_type="text/css", headers=_HEADERS)

    app.mount("/docs/assets", StaticFiles(packages=[("fastapi_offline", "static")]))

    @app.head("/docs/{name}", include_in_schema=False)
    @app.get("/docs/{name}", include_in_schema=False)
    def reference(name: str) -> Response:
        stem = name.removesuffix(".md")
        text = _texts().get(stem)
        if text is None:
            raise HTTPException(404, f"no page {stem!r}; see /docs for all pages")
        if name.endswith(".md"):
            return Response(text, media_type="text/markdown", headers=_HEADERS)
        return HTMLResponse(_html(text, below=""), headers=_HEADERS)


@cache
def _texts() -> dict[str, str]:
    """Return the pages as Markdown, by name."""
    return {file.stem: file.read_text(encoding="utf-8") for file in sorted(FOLDER.glob("*.md"))}


def _index() -> str:
    pages = [
        f"- [{text.partition(chr(10))[0].removeprefix('# ')}]({name}.md)" for name, text in _texts().items()
    ]
    lines = ["# ranksieve", "", "- [Try the API](api)", *pages, "- [OpenAPI](../openapi.json)"]
    return _html("\n".join(lines), below="docs/")


def _html(markdown: str, *, below: str) -> str:
    """Render a page as HTML, with anchors at its headings.

    Links to other pages are relative to the folder `below`.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(markdown)
    for opening, inline in pairwise(tokens):
        if opening.type == "heading_open":
            opening.attrSet("id", anchor(inline.content))
        for link in inline.children or ():
            _relink(link, below)
    title = tokens[1].content
    body = parser.renderer.render(tokens, parser.options, {})
    return f"""{_HEAD}<title>{title} - ranksieve</title>
<link rel="icon" href="{below}assets/favicon.png">
<link rel="stylesheet" href="{below}style.css">
</head>
<body>
{body}</body>
</html>
"""


def _relink(token: Token, below: str) -> None:
    """Turn a link between Markdown files into a link between pages."""
    href = token.attrGet("href")
    if isinstance(href, str) and not href.startswith("#"):
        file, _, heading = href.partition("#")
        token.attrSet("href", below + file.removesuffix(".md") + (f"#{heading}" if heading else ""))
