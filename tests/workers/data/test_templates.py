from typing import Any

import pytest

from ranksieve.search.errors import InputError
from ranksieve.workers.data.templates import Template

RECORD: dict[str, Any] = {
    "text": "A good film.\n",
    "n": 3,
    "share": 0.5,
    "flag": True,
    "empty": None,
    "options": ["yes", "no"],
    "meta": {"title": "T", "items": 1},
    "odd name": "odd",
}


def render(source: str, record: dict[str, Any] | None = None) -> str:
    return Template(source, "task.prompt").render(RECORD if record is None else record, "record 7 of a.jsonl")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("Review: {{ text }}\n", "Review: A good film.\n\n"),
        ("{{ n }} {{ share }} {{ flag }}", "3 0.5 True"),
        ("{{ meta.title }}{{ meta['title'] }}", "TT"),
        ("{% for o in options %}{{ loop.index }}/{{ loop.length }} {{ o }};{% endfor %}", "1/2 yes;2/2 no;"),
        ("{% for o in options if o != 'no' %}{{ o }}{% else %}none{% endfor %}", "yes"),
        ("{% for i in range(3) %}{{ i }}{% endfor %}", "012"),
        ("{{ options|join(', ') }} {{ text|replace('good', 'bad')|trim }}", "yes, no A bad film."),
        ("{{ text[:6] ~ n ~ '!' }}{{ 'ab' * 2 + 'c' }}{{ n % 2 }}{{ 2 ** 3 }}", "A good3!ababc18"),
        ("{{ text.strip().upper() }}", "A GOOD FILM."),
        ("{{ empty or '' }}{{ absent|default('x') }}{% if empty is none %}y{% endif %}", "xy"),
        ("{{ meta|tojson }} {{ '<b>' }} {{ '<'|tojson }}", '{"title": "T", "items": 1} <b> "<"'),
        ("{{ record['odd name'] }}", "odd"),
        (
            "{% set s = namespace(n=0) %}{% for o in options %}{% set s.n = s.n + 1 %}{% endfor %}{{ s.n }}",
            "2",
        ),
        ("{{ [meta]|join(',', attribute='title') }}", "T"),
        ("", ""),
    ],
)
def test_renders(source: str, expected: str) -> None:
    assert render(source) == expected


def test_renders_many_records_afresh() -> None:
    template = Template("{{ text * 900 }}", "task.prompt")
    assert [len(template.render({"text": "x" * 500}, "r")) for _ in range(3)] == [450_000] * 3


def test_field_called_record_wins() -> None:
    assert render("{{ record }}", {"record": "mine"}) == "mine"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a\n{{ text", "bad template, line 2"),
        ("{% if %}", "bad template, line 1"),
        ("{{ 0x" + "f" * 5000 + " }}", "bad template: Exceeds the limit"),
        ("{{ " + "9" * 5000 + " }}", "bad template: Exceeds the limit"),
        ("{{ text|nosuch }}", "No filter named 'nosuch'"),
        ("{% include 'a' %}", "include is not supported"),
        ("{% import 'a' as b %}", "import is not supported"),
        ("{% extends 'a' %}", "extends is not supported"),
        ("{% macro f(n) %}{{ f(n) }}{% endmacro %}", "macro is not supported"),
        ("{% for x in options recursive %}{% endfor %}", "a recursive loop is not supported"),
        ("{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}", "nested too deeply"),
        ("\n{{ text" + "|lower" * 200 + " }}", "line 2: it is nested too deeply"),
        ("{% for a in b %}" * 30 + "{% endfor %}" * 30, "nested too deeply"),
    ],
)
def test_bad_template(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Template(source, "task.answer")
    assert caught.value.field == "task.answer"


def test_missing_field_names_record_and_fields() -> None:
    with pytest.raises(InputError) as caught:
        render("{{ title }}: {{ text }}", {"text": "x", "label": "y"})
    assert caught.value.field == "task.prompt"
    assert caught.value.message == "record 7 of a.jsonl has no field 'title'; it has text, label"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ meta.author }}", "has no attribute 'author'; its fields are text, n"),
        ("{{ options[5] }}", "its fields are"),
        ("{{ empty }}", "a value is null"),
        ("{{ 'a' ~ empty }}", "a value is null"),
        ("{{ [empty]|join }}", "a value is null"),
        ("{{ none }}", "a value is null"),
        ("{{ n / 0 }}", "does not render: division by zero"),
        ("{{ text | truncate(2) }}", "does not render: expected length >= 3, got 2"),
        ("{{ 1e999 }}", "does not render: name 'inf' is not defined"),
        ("{{ n + text }}", "does not render"),
        ("{{ text.index('zzz') }}", "does not render"),
        ('{{ "\\ud800" }}', "not valid Unicode"),
    ],
)
def test_bad_value(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        render(source)
    assert caught.value.message.startswith("record 7 of a.jsonl ")
