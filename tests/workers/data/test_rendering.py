import os
import signal

import pytest

from ranksieve.search.errors import InfrastructureError, InputError
from ranksieve.workers.data import rendering
from ranksieve.workers.data.rendering import Renderer

LONG = "{% set s = 'a' * 300000 %}"


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% for a in range(99999) %}{{ text }}{% endfor %}",
        "{{ 'x' * 1000000000000 }}",
        "{{ 9 ** (9 ** 9) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ ('x' * 99999)|replace('x', 'y' * 99999) }}",
        "{% set n = namespace(a='xx') %}{% for i in range(99) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
        "{% set a = [1, 1] %}" + "{% set a = [a, a] %}" * 30 + "{{ (a|tojson)|length }}",
        "{{ 1.5|round(4000000, 'floor') }}",
        "{% set b = range(90000)|list %}{% for i in range(20000) %}{% set c = b|sort %}{% endfor %}",
        LONG + "{{ ([s] * 5000)|map('upper')|list|length }}",
        LONG + "{{ ([s] * 3000)|tojson|length }}",
        "{% set k = 'real,' * 60000 ~ 'real' %}{{ (range(1000)|list)|sort(attribute=k)|length }}",
    ],
)
def test_time_and_memory_are_bounded(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "CPU_S", 1)
    with Renderer() as renderer, pytest.raises(InputError) as caught:
        renderer.render(source, "task.prompt", [("record 1", {"text": "A good film."})])
    assert caught.value.field == "task.prompt"


def test_records_keep_their_order_over_batches() -> None:
    records = [(f"record {number}", {"number": number}) for number in range(2 * rendering.BATCH + 1)]
    with Renderer() as renderer:
        assert renderer.render("{{ number }}", "a", records) == [str(one) for one in range(len(records))]
        assert renderer.render("{{ number + 1 }}", "b", records[:2]) == ["1", "2"]


def test_a_template_is_checked_without_records() -> None:
    with Renderer() as renderer:
        assert renderer.render("{{ text }}", "task.answer", []) == []
        with pytest.raises(InputError, match=r"^task.answer: bad template, line 1"):
            renderer.render("{{ text", "task.answer", [])


def test_time_grows_with_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "CPU_S", 1)
    monkeypatch.setattr(rendering, "BATCH", 1)
    monkeypatch.setattr(rendering, "RECORDS_PER_S", 10)
    source = "{% for a in range(500) %}" * 2 + "{% endfor %}" * 2
    with Renderer() as renderer:
        assert renderer.render(source, "task.prompt", [("record", {})] * 200) == [""] * 200


def test_a_killed_child_is_the_fault_of_the_machine() -> None:
    with Renderer() as renderer:
        os.kill(renderer._child.pid, signal.SIGKILL)
        with pytest.raises(InfrastructureError, match="ended with -9"):
            renderer.render("{{ text }}", "task.prompt", [("record 1", {"text": "a"})])


def test_the_child_has_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    with Renderer() as renderer:
        renderer.render("", "task.prompt", [])
        with open(f"/proc/{renderer._child.pid}/environ", "rb") as environment:
            assert b"secret" not in environment.read()
