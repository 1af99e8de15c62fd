"""Page of the job file: one section per mapping, from its pydantic models."""

from collections.abc import Mapping

from ranksieve.api.cli.reference.schemas import HEADER, Schema, definitions_of, references, rows
from ranksieve.api.reference.markdown import anchor, code, page, paragraphs, table
from ranksieve.service.spec import JobSpec
from ranksieve.service.spec.strict import LONGEST_TEXT

_FILE, _OF_KIND = "The whole file", " of kind "


def render() -> str:
    """Render the page."""
    schema = JobSpec.model_json_schema()
    definitions = definitions_of(schema)
    titles: dict[str, str] = {}
    _name(schema, "", definitions, titles)
    links = {
        reference: f"[{title.partition(_OF_KIND)[2] or 'mapping'}](#{anchor(title)})"
        for reference, title in titles.items()
    }
    intro = (
        "YAML or JSON. Unknown fields are errors, and so are fields given twice. "
        f"Texts have at most {LONGEST_TEXT:,} characters."
    )
    sections = [(_FILE, schema), *((title, definitions[reference]) for reference, title in titles.items())]
    return page(
        "# Job file", intro, *(_section(title, inner, definitions, links) for title, inner in sections)
    )


def _name(schema: Schema, path: str, definitions: Mapping[str, Schema], titles: dict[str, str]) -> None:
    """Title every mapping by the path of the first field that takes it, depth first."""
    for name, field in schema.get("properties", {}).items():
        found = list(references(field))
        for reference, step in found:
            if reference in titles or "properties" not in definitions[reference]:
                continue
            inner = definitions[reference]
            kind = inner["properties"].get("kind", {}).get("const") if len(found) > 1 else None
            titles[reference] = code(f"{path}{name}{step}") + (f"{_OF_KIND}{code(kind)}" if kind else "")
            _name(inner, f"{path}{name}{step}.", definitions, titles)


def _section(title: str, schema: Schema, definitions: Mapping[str, Schema], links: Mapping[str, str]) -> str:
    """Render a mapping's fields; advanced ones in a table of their own at the end."""
    tables: dict[bool, dict[str, Schema]] = {False: {}, True: {}}
    for name, field in schema.get("properties", {}).items():
        tables[bool(field.get("x-advanced"))][name] = field
    usual, advanced = (
        table(HEADER, rows({**schema, "properties": fields}, links, definitions))
        for fields in tables.values()
    )
    docstring = paragraphs(schema.get("description", ""))
    return page(f"## {title}", docstring, usual, "Seldom needed:" if advanced else "", advanced)
