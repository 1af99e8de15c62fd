"""Page of the error codes."""

from http import HTTPStatus

from ranksieve.api.cli.reference.schemas import HEADER, rows
from ranksieve.api.http.errors import CODES, MEDIA_TYPE
from ranksieve.api.http.examples import DETAILS
from ranksieve.api.http.schemas.common import FieldProblem, Problem
from ranksieve.api.reference.markdown import code, page, paragraphs, table


def render() -> str:
    """Render the page."""
    codes = (
        (code(name), str(status), HTTPStatus(status).phrase, DETAILS.get(status, ""))
        for status, name in CODES.items()
    )
    links = {"#/$defs/FieldProblem": "field problem"}
    return page(
        "# Errors",
        f"Every error is a problem document (RFC 9457), {code(MEDIA_TYPE)}. Rely on its `code`, not on its text.",
        table(("code", "status", "phrase", "example of `detail`"), codes),
        "## Problem document",
        paragraphs(Problem.__doc__ or ""),
        table(HEADER, rows(Problem.model_json_schema(), links)),
        "## Field problem",
        paragraphs(FieldProblem.__doc__ or ""),
        table(HEADER, rows(FieldProblem.model_json_schema(), links)),
    )
