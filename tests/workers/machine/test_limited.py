"""What a child may take, and what its parent says of one that took more."""

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from ranksieve.search.errors import CancelledError, InfrastructureError, InputError
from ranksieve.workers.cost.speed import dtype_name
from ranksieve.workers.data import records
from ranksieve.workers.data.templates import render
from ranksieve.workers.machine import limited
from ranksieve.workers.machine.limited import run_limited
from ranksieve.workers.types.plan import RecordSource

LOOP = "{% for a in range(99999) %}" * 2 + "{% endfor %}" * 2
LONG = "{% set s = 'a' * 300000 %}"
RECORD = [("record 1", {"text": "A good film."})]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited, "CPU_S", 1)
    monkeypatch.setattr(limited, "MOST_BYTES", 2**28)
    monkeypatch.setattr(limited, "LEAST_BYTES", 2**28)


def source(path: Path) -> RecordSource:
    return RecordSource(field="task.data.source", path=path)


def test_results_are_values_of_the_annotated_type(tmp_path: Path) -> None:
    assert run_limited(render, "{{ text }}", "task.prompt", RECORD) == ["A good film."]
    file = tmp_path / "films.jsonl"
    file.write_text('{"text": "film", "stars": [1, 2.5, null]}')
    assert run_limited(records.read, source(file)) == [{"text": "film", "stars": [1, 2.5, None]}]


def test_an_input_error_is_the_childs_with_a_fault_of_the_machine_as_its_cause(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^task\.prompt: bad template, line 1") as caught:
        run_limited(render, "{{ text", "task.prompt", RECORD)
    assert caught.value.__cause__ is None


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*unexpected keyword|Traceback.*argument"):
        run_limited(dtype_name, "float32")


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'x' * 1000000000000 }}",
        "{{ 9 ** (9 ** 9) }}",
        "{% set n = namespace(a='xx') %}{% for i in range(99) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
        "{% set a = [1, 1] %}" + "{% set a = [a, a] %}" * 30 + "{{ (a|tojson)|length }}",
        "{% set b = range(90000)|list %}{% for i in range(20000) %}{% set c = b|sort %}{% endfor %}",
        LONG + "{{ ([s] * 5000)|map('upper')|list|length }}",
    ],
)
def test_time_and_memory_of_templates_are_bounded(template: str) -> None:
    with pytest.raises(InputError) as caught:
        run_limited(render, template, "task.prompt", RECORD)
    assert caught.value.field == "task.prompt"


def test_a_loop_is_named_by_its_step() -> None:
    with pytest.raises(
        InputError, match=r"^task\.prompt: rendering it with 1 records takes more than 1 s of pro"
    ):
        run_limited(render, LOOP, "task.prompt", RECORD)


def test_wall_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited, "CPU_S", 60)
    monkeypatch.setattr(limited, "WALL_S", 0.2)
    with pytest.raises(InputError, match=r"takes more than 0\.2 s; simplify"):
        run_limited(render, LOOP, "task.prompt", RECORD)


def test_a_cancelled_child_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited, "CPU_S", 60)
    cancelled = threading.Event()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(run_limited, render, LOOP, "task.prompt", RECORD, cancelled=cancelled)
        child = grandchild()
        cancelled.set()
        with pytest.raises(CancelledError):
            running.result(timeout=20)
    psutil.wait_procs([child], timeout=20)
    assert not child.is_running()


def test_a_child_gives_way_to_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited, "CPU_S", 60)
    monkeypatch.setattr(limited, "NICENESS", 3)
    cancelled = threading.Event()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(run_limited, render, LOOP, "task.prompt", RECORD, cancelled=cancelled)
        child = grandchild()
        while child.nice() != os.nice(0) + 3:
            assert not running.done()
        cancelled.set()
        with pytest.raises(CancelledError):
            running.result(timeout=20)


def test_a_killed_child_is_the_fault_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited, "CPU_S", 60)
    with ThreadPoolExecutor() as pool:
        running = pool.submit(run_limited, render, LOOP, "task.prompt", RECORD)
        os.kill(grandchild().pid, signal.SIGKILL)
        with pytest.raises(InfrastructureError, match="its process ended with -9"):
            running.result(timeout=20)


def grandchild() -> psutil.Process:
    """The child of `run_limited`, which the forking process has forked, as soon as there is one."""
    while True:
        for one in psutil.Process().children():
            if "forkserver" in " ".join(one.cmdline()) and (found := one.children()):
                return found[0]


def test_a_line_that_fills_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited, "CPU_S", 60)
    file = tmp_path / "long.jsonl"
    with file.open("wb") as stream:
        stream.truncate(2**31)  # sparse, and without a newline
    with pytest.raises(
        InputError, match=r"^task\.data\.source.*reading long\.jsonl takes more than 0\.2 GiB of memory"
    ):
        run_limited(records.read, source(file))


def test_repeated_texts_of_a_small_file_are_refused(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    file = tmp_path / "small.parquet"
    values = pyarrow.DictionaryArray.from_arrays([0] * 1000, ["x" * 2**20])
    parquet.write_table(pyarrow.table({"text": values}), file)
    assert file.stat().st_size < 2**22
    with pytest.raises(
        InputError, match=r"^task\.data\.source.*reading small\.parquet takes more than .* GiB of memory"
    ):
        run_limited(records.read, source(file))
