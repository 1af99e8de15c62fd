"""Page of one job as a single HTML file, which needs no server.

The modules of the page are in an import map, the answers of the API in a script of JSON. `files/report.js` gives them
to the page in place of a server.
"""

import html
import json
import re
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from ranksieve.api.page import FILES

_IMPORT = re.compile(r'from "(\.[\w./]+\.js)"')
_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="$policy">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<link rel="icon" href="data:,">
<style>$style</style>
<script type="importmap">$modules</script>
<script type="application/json" id="answers">$answers</script>
</head>
<body>
<p id="trouble" role="status"></p>
<main id="view"></main>
<script type="module">import "report.js";</script>
</body>
</html>
""")
_POLICY = "default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; img-src data:"


def report(job_id: str, name: str, answers: Mapping[str, Any]) -> str:
    """Return the HTML file of a job.

    Args:
        job_id: Id of the job.
        name: Name of the job.
        answers: Answers of the API, each with `status` and `body`, by path below `/v1/` as the page asks for them.
    """
    modules = {_name(file): _module(file) for file in FILES.rglob("*.js")}
    return _PAGE.substitute(
        policy=_POLICY,
        title=html.escape(name),
        style=(FILES / "page.css").read_text(),
        modules=json.dumps({"imports": modules}),
        answers=_in_a_script({"id": job_id, "answers": answers}),
    )


def _in_a_script(values: Mapping[str, Any]) -> str:
    """Return values as JSON without `<`.

    A job's name may hold the end of a script.
    """
    return json.dumps(values).replace("<", r"\u003c")


def _name(file: Path) -> str:
    return file.resolve().relative_to(FILES.resolve()).as_posix()


def _module(file: Path) -> str:
    """Return a module as a URL.

    It imports the others by name, because such a URL has no folder.
    """
    named = _IMPORT.sub(lambda found: f'from "{_name(file.parent / found[1])}"', file.read_text())
    return f"data:text/javascript;base64,{b64encode(named.encode()).decode()}"
