from typing import Any

import pytest

from ranksieve.search.errors import InputError
from ranksieve.workers.data.templates import Template

RECORD: dict[str, Any] = {"text": "A good film.", "options": ["yes", "no"], "meta": {"title": "T"}}


def render(source: str) -> str:
    return Template(source, "task.prompt").render(RECORD, "record 1")


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''['__class__'] }}",
        "{{ text.__class__.__base__.__subclasses__() }}",
        "{{ range.__globals__ }}",
        "{{ ''|attr('__class__') }}",
        "{{ options|map(attribute='__class__')|join }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{{ '%s'|format(1) }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ self.__init__ }}",
        "{{ options.append(1) }}",
        "{{ meta.update({}) }}",
        "{{ cycler.__init__ }}",
        "{{ lipsum() }}",
        "{{ text.encode('utf-8').decode.__self__ }}",
        "{{ text['__cl' ~ 'ass__'] }}",
        "{{ text['\\x5f\\x5fclass\\x5f\\x5f'] }}",
        "{{ text|map('attr', '__class__')|list }}",
        "{{ [text]|map('attr', '__class__')|list }}",
        "{{ [text]|selectattr('__class__')|list }}",
        "{{ [text]|rejectattr('__class__.__name__', 'eq', 'x')|list }}",
        "{{ [text]|sum(attribute='__class__') }}",
        "{{ [text]|unique(attribute='__class__')|list|first }}",
        "{{ range.__class__.__base__ }}",
        "{{ dict.__subclasses__() }}",
        "{{ dict.mro() }}",
        "{{ namespace.__class__ }}",
        "{{ namespace(a=1).__init__ }}",
        "{{ loop.__class__ }}",
        "{% for a in options %}{{ loop.__class__.__init__ }}{% endfor %}",
        "{% for a in options %}{{ loop._iterator }}{% endfor %}",
        "{{ record.__class__ }}",
        "{{ record.pop('text') }}",
        "{{ record.clear() }}",
        "{{ record.setdefault('a', 1) }}",
        "{{ options.sort() }}",
        "{{ options.extend([1]) }}",
        "{{ config.SECRET_KEY }}",
        "{{ request.application }}",
        "{{ get_flashed_messages.__globals__ }}",
        "{{ joiner.__init__.__globals__ }}",
        "{{ url_for.__globals__ }}",
        "{{ (1).__class__ }}",
        "{{ 1.5.as_integer_ratio.__self__ }}",
        "{{ none.__class__ }}",
        "{{ true.__class__ }}",
        "{% set x = text.__class__ %}{{ x }}",
        "{% if text.__class__ %}a{% endif %}",
        "{% for c in text.__class__.__mro__ %}{{ c }}{% endfor %}",
        "{{ text.format_map({}) }}",
        "{{ text.__format__('') }}",
        "{{ text.__add__('a') }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
        "{% from 'os' import system %}{{ system('id') }}",
        "{% extends '/etc/passwd' %}",
        "{% debug %}",
        "{% do options.append(1) %}",
        "{{ cycler('a').next.__globals__ }}",
        "{{ text|pprint }}",
        "{{ text|xmlattr }}",
        "{{ text|filesizeformat }}",
        "{{ text|random }}",
    ],
)
def test_sandbox_refuses(source: str) -> None:
    with pytest.raises(InputError):
        render(source)


LONG = "{% set s = 'a' * 300000 %}"


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(1000000) %}{% endfor %}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{{ text }}{% endfor %}",
        "{% for a in range(9999) %}" + "padding" * 50 + "{% endfor %}",
        "{{ 'x' * 1000000000000 }}",
        "{{ 1000000000000 * 'x' }}",
        "{{ [1] * 1000000000000 }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ 9 ** 9999 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '{:>999999999}'.format(1) }}",
        "{{ '{x:>999999999}'.format_map({'x': 1}) }}",
        "{{ 'x'.center(999999999) }}",
        "{{ 'x'|center(999999999) }}",
        "{{ (1).to_bytes(999999999, 'big') }}",
        "{{ ('x' * 99999)|replace('x', 'y' * 99999) }}",
        "{{ ('x' * 99999).replace('x', 'y' * 99999) }}",
        "{{ range(99999)|join('y' * 99999) }}",
        "{% set n = namespace(a='xx') %}{% for i in range(99) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
        "{% set n = namespace(a='xx') %}{% for i in range(99) %}{% set n.a = n.a + n.a %}{% endfor %}",
        "{% set n = namespace(a=2) %}{% for i in range(99) %}{% set n.a = n.a * n.a %}{% endfor %}",
        "{{ 'x'.ljust(999999999) }}",
        "{{ 'x'.rjust(999999999) }}",
        "{{ 'x'.zfill(999999999) }}",
        "{{ '\\t'.expandtabs(999999999) }}",
        "{{ 'x'.translate({120: 'y' * 9999}) }}",
        "{{ ','.join(['x'] * 999999) }}",
        "{{ 'x'|indent(999999999) }}",
        "{{ 'x'|wordwrap(1) }}",
        "{{ 'x' * 2 ** 40 }}",
        "{{ ('x' * 99999 ~ 'y' * 99999) * 9999 }}",
        "{{ 1 << 999999999 }}",
        "{{ (9 ** 999) ** 999 }}",
        "{% for a in range(999999999) %}{{ loop.index }}{% endfor %}",
        "{{ range(999999999)|list }}",
        "{{ range(999999999)|sum }}",
        "{{ ('a' * 999999)|list|join('bbbb') }}",
        "{% set a0 %}xxxxxxxxxxx{% endset %}"
        + "".join(f"{{% set a{i + 1} %}}{{{{ a{i} }}}}{{{{ a{i} }}}}{{% endset %}}" for i in range(60)),
        "{% set a = 'xx' %}" + "{% set a = a.encode().hex() %}" * 30,
        "{% set a = 'xx' %}" + "{% set a = a.encode('utf-32').decode('latin-1') %}" * 20,
        "{% set a = [1, 1] %}" + "{% set a = [a, a]|sum(start=[]) %}" * 30,
        "{% set a = [1, 1] %}" + "{% set a = [a, a] %}" * 30 + "{{ (a|tojson)|length }}",
        "{% set a = {'x': 1} %}" + "{% set a = {'x': a, 'y': a} %}" * 30 + "{{ a == a }}",
        "{% set a = (1, 1) %}" + "{% set a = dict(x=a, y=a) %}" * 30 + "{{ a }}",
        "{{ 1.5|round(4000000, 'floor') }}",
        "{% set b = range(90000)|list %}{% for i in range(20000) %}{% set c = b|sort %}{% endfor %}",
        "{% set b = 'x' * 90000 %}{% for i in range(20000) %}{% set c = b.upper() %}{% endfor %}",
        "{% set b = 'x' * 90000 %}{% for i in range(20000) %}{% set c = b[:-1] %}{% endfor %}",
        "{% set b = 'x' * 90000 %}{% for i in range(20000) %}{% set c = b == b[:] %}{% endfor %}",
        LONG + "{{ ([s] * 5000)|sort|length }}",
        LONG + "{{ ([s] * 5000)|map('upper')|list|length }}",
        LONG + "{{ ([s] * 3000)|tojson|length }}",
        LONG + "{{ ([s] * 3000)|string|length }}",
        LONG + "{{ [s, s] * 1500 }}",
        LONG + "{{ ([s] * 100000)|map('wordcount')|sum }}",
        LONG + "{% set f = s.upper %}{% for i in range(90000) %}{% set c = f() %}{% endfor %}",
        "{% set x %}{% for i in range(90000) %}" + "padding" * 70 + "{% endfor %}{% endset %}",
        "{% filter upper %}{% for i in range(90000) %}" + "padding" * 70 + "{% endfor %}{% endfilter %}",
        "{% set a = ('f' * 90000)|int(base=16) %}{% for i in range(9999) %}{{ (a // 3) % 2 }}{% endfor %}",
        "{% set a = (1).from_bytes([255] * 90000, 'big') %}{% for i in range(9999) %}{{ a % 3 }}{% endfor %}",
        "{% set k = 'real,' * 60000 ~ 'real' %}{{ (range(1000)|list)|sort(attribute=k)|length }}",
        "{% set k = 'real.' * 60000 ~ 'real' %}{{ range(1000)|map(attribute=k)|list|length }}",
    ],
)
def test_bounded(source: str) -> None:
    with pytest.raises(InputError):
        render(source)


def test_a_loop_that_looks_at_itself_counts_once_a_step() -> None:
    source = "{% for i in range(1200) %}{{ loop.index }}{% if not loop.last %},{% endif %}{% endfor %}"
    assert render(source) == ",".join(map(str, range(1, 1201)))


def test_what_is_counted_is_what_it_was() -> None:
    source = (
        "{% set a, b = (1, [2, 3]) %}{% set c = dict(x=b) %}{{ [a, b, c]|tojson }} {{ b|sum }} "
        "{{ [b, b]|sum(start=[]) }} "
        "{{ 2.345|round(2) }} {{ [{'n': 1}, {'n': 2}]|sum('n') }} {{ b[1:] }} {{ a == 1 and b is iterable }} "
        "{% for k, v in {'k': 1}.items() %}{{ loop.index }}{{ k }}{{ v }}{% endfor %}{{ none is none }}"
    )
    assert render(source) == ('[1, [2, 3], {"x": [2, 3]}] 5 [2, 3, 2, 3] 2.35 3 [3] True 1k1True')
