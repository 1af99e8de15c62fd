from typing import Any

import pytest

from ranksieve.search.errors import InputError
from ranksieve.workers.data import templates
from ranksieve.workers.data.templates import Template, render_each, render_value

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


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ options }}", ("yes", "no")),
        ("{{ options[:1] }}", ("yes",)),
        ("{{ (n, '\u00e9\n') }}", ("3", "\u00e9\n")),
        ("{{ text }}", ("A good film.\n",)),
        ("{{ n }}", ("3",)),
        ("{{ text ~ n }}", ("A good film.\n3",)),
        ("[{{ n }}]", ("[3]",)),
        ("{{ n }}{{ n }}", ("33",)),
        ("{{ n }}\n", ("3\n",)),
        ("{{ options }}\n", ("yes\n", "no\n")),
        ("{{ options }}.", ("['yes', 'no'].",)),
        ("{% if flag %}{{ options }}{% endif %}", ("['yes', 'no']",)),
        ("yes", ("yes",)),
    ],
)
def test_a_list_renders_to_its_items(source: str, expected: tuple[str, ...]) -> None:
    assert render_each(source, "task.answer", [("r", RECORD)]) == [expected]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{{ options }}", ["yes", "no"]),
        ("{{ options }}\n\n", ["yes", "no"]),
        ("{{ [{'n': n, 'none': none}] }}", [{"n": 3, "none": None}]),
        ("{{ n }}", "3"),
        ("{{ text }}\n ", "A good film.\n\n "),
        ("Options: {{ options }}", "Options: ['yes', 'no']"),
        ("", ""),
    ],
)
def test_a_list_may_be_the_value(source: str, expected: Any) -> None:
    assert render_value(source, "task.prompt", [("r", RECORD)]) == [expected]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{{ absent }}", "record 7 has no field 'absent'"),
        ("{{ empty }}", "a value is null"),
        ("{{ ['a', empty] }}", "a value is null"),
        ("{{ ['\ud800'] }}", "not valid Unicode"),
        ("{{ ['x' * 1000] * 2000 }}", "longer than 1,000,000 characters"),
        ("{{ text.__class__ }}", "unsafe"),
    ],
)
def test_a_list_that_does_not_render(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        render_each(source, "task.answer", [("record 7", RECORD)])
    assert caught.value.field == "task.answer"


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
        ("{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}", "nested too deeply"),
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
        ("{{ n + text }}", "does not render"),
        ("{{ text.index('zzz') }}", "does not render"),
        ('{{ "\\ud800" }}', "not valid Unicode"),
    ],
)
def test_bad_value(source: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        render(source)
    assert caught.value.message.startswith("record 7 of a.jsonl ")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__'] }}",
        "{{ range.__globals__ }}",
        "{{ ''|attr('__class__') }}",
        "{{ options|map(attribute='__class__')|join }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ dict.mro() }}",
        "{{ options.append(1) }}",
        "{{ meta.update({}) }}",
        "{{ cycler.__init__ }}",
        "{{ lipsum() }}",
        "{{ text.encode('utf-8').decode.__self__ }}",
        "{{ text['__cl' ~ 'ass__'] }}",
        "{{ text|map('attr', '__class__')|list }}",
        "{{ [text]|selectattr('__class__')|list }}",
        "{{ [text]|rejectattr('__class__.__name__', 'eq', 'x')|list }}",
        "{{ [text]|sum(attribute='__class__') }}",
        "{{ [text]|unique(attribute='__class__')|list|first }}",
        "{% for a in options %}{{ loop.__class__.__init__ }}{% endfor %}",
        "{% for a in options %}{{ loop._iterator }}{% endfor %}",
        "{{ record.pop('text') }}",
        "{{ config.SECRET_KEY }}",
        "{{ 1.5.as_integer_ratio.__self__ }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
        "{% extends '/etc/passwd' %}",
        "{% debug %}",
        "{% do options.append(1) %}",
        "{{ text|xmlattr }}",
        "{{ text|filesizeformat }}",
        "{{ text|random }}",
        "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% for a in range(999999999) %}{% endfor %}",
    ],
)
def test_sandbox_refuses(source: str) -> None:
    with pytest.raises(InputError):
        render(source)


def test_records_are_rendered_in_order() -> None:
    named = [(f"record {number}", {"number": number}) for number in range(3)]
    assert templates.render("{{ number }}", "task.prompt", named) == ["0", "1", "2"]


def test_a_template_is_checked_without_records() -> None:
    assert templates.render("{{ text }}", "task.answer", []) == []
    with pytest.raises(InputError, match=r"^task.answer: bad template, line 1"):
        templates.render("{{ text", "task.answer", [])
