"""`ranksieve explain`: meaning of job-file fields, from their pydantic models."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated

import typer

from ranksieve.api.cli.reference.schemas import HEADER, Schema, definitions_of, references, rows
from ranksieve.search.errors import InputError
from ranksieve.service.spec import JobSpec

MOST_SUGGESTIONS = 5

Rows = list[dict[str, str]]
"""A field's cells by their column, once for each kind of mapping that has the field; `of` is that kind."""

app = typer.Typer()


@app.command()
def explain(
    field: Annotated[str, typer.Argument(metavar="FIELD", help="Such as objective.points, or search.")],
) -> None:
    """Explain a field of the job file: its type, default, bounds and meaning."""
    fields = fields_of(JobSpec.model_json_schema())
    if field not in fields:
        raise InputError(field, f"no such field of the job file; {_near(field, fields)}")
    typer.echo("\n\n".join(dict.fromkeys(_text_of(field, row) for row in fields[field])))
    below = [path for path in fields if path.rpartition(".")[0] == field]
    if below:
        typer.echo("\nfields:")
    for path in below:
        types, defaults = (
            " or ".join(
                dict.fromkeys(row[column] for row in fields[path] if row[column] not in ("", "required"))
            )
            for column in ("type", "default")
        )
        typer.echo(f"  {path}: {types}{f', default {defaults}' if defaults else ''}")


def fields_of(schema: Schema) -> dict[str, Rows]:
    """Return the rows of every field by its dotted path, parents first."""
    found: dict[str, Rows] = {}
    for path, row in _walk(schema, definitions_of(schema), ""):
        found.setdefault(path, []).append(row)
    return found


def _walk(
    schema: Schema, definitions: Mapping[str, Schema], above: str
) -> Iterator[tuple[str, dict[str, str]]]:
    fields = schema["properties"]
    links = dict.fromkeys(definitions, "mapping of fields")
    kind = fields.get("kind", {}).get("const", "")
    for (name, field), cells in zip(fields.items(), rows(schema, links, definitions), strict=True):
        plain = (cell.replace("`", "") for cell in cells)
        yield f"{above}{name}", {"of": kind, **dict(zip(HEADER, plain, strict=True))}
        for reference, _ in references(field):
            yield from _walk(definitions[reference], definitions, f"{above}{name}.")


def _text_of(path: str, row: Mapping[str, str]) -> str:
    name = f"{path} of {row['of']}" if row["of"] else path
    return "\n".join([name, *(f"  {column}: {row[column]}" for column in HEADER[1:] if row[column])])


def _near(field: str, fields: Mapping[str, Rows]) -> str:
    """Suggest fields with the same last name, or with similar names."""
    last = field.rpartition(".")[2]
    same = [path for path in fields if path.rpartition(".")[2] == last]
    close = same or get_close_matches(field, fields, n=MOST_SUGGESTIONS)
    if not close:
        names = {path.rpartition(".")[2]: path for path in fields}
        close = [names[name] for name in get_close_matches(last, names, n=MOST_SUGGESTIONS)]
    if close:
        return f"did you mean {' or '.join(close[:MOST_SUGGESTIONS])}?"
    return (
        f"expected one of {', '.join(path for path in fields if '.' not in path)}, or a field in one of them"
    )
