from typing import Any

import pytest

from search.errors import InputError
from workers.templates import Template

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
    ],
)
def test_sandbox_refuses(source: str) -> None:
    with pytest.raises(InputError):
        render(source)


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
        "{% set a0 %}xxxxxxxxxxx{% endset %}"
        + "".join(f"{{% set a{i + 1} %}}{{{{ a{i} }}}}{{{{ a{i} }}}}{{% endset %}}" for i in range(60)),
    ],
)
def test_bounded(source: str) -> None:
    with pytest.raises(InputError):
        render(source)
