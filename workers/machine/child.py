"""Steps of a function, as a child process with limits reports them to its parent.

Knows nothing of the parent; see `workers.machine.limited`.
"""

import json
import resource
from multiprocessing.connection import Connection
from typing import Any

CPU_S = 300
"""Processor time that one step may take, in seconds."""

_answers: Connection | None = None
"""Way to the parent; only in a child."""
_most_cpu_s = CPU_S


def begin(answers: Connection, cpu_s: int) -> None:
    """Make this process a child that answers its parent.

    Args:
        answers: Way to the parent.
        cpu_s: Most processor time of any step.
    """
    global _answers, _most_cpu_s
    _answers, _most_cpu_s = answers, cpu_s


def step(field: str, what: str, cpu_s: float = CPU_S) -> None:
    """Name what a child does next, for its parent's errors; elsewhere do nothing.

    Args:
        field: Field of the job file that the step depends on.
        what: Words that "takes too much memory" may follow, e.g. `reading films.jsonl`.
        cpu_s: Processor time that the step may take.
    """
    if _answers is None:
        return
    limit_s = min(cpu_s, _most_cpu_s)
    used = resource.getrusage(resource.RUSAGE_SELF)
    ends_s = int(used.ru_utime + used.ru_stime + limit_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (ends_s, resource.RLIM_INFINITY))
    send("step", field, what, limit_s)


def send(*values: Any) -> None:
    """Send values to the parent, as JSON."""
    assert _answers is not None
    _answers.send_bytes(json.dumps(values).encode())
