"""Rendering of templates in a child process with limits on time and memory.

The kernel enforces the limits. The child gets none of this process's environment variables, and answers in JSON, so
nothing from it is executed here.
"""

import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

from ranksieve.search.errors import InfrastructureError, InputError
from ranksieve.workers.data.templates import Named, Request

CPU_S = 10
"""Processor time that templates may take, in seconds."""
RECORDS_PER_S = 1000
"""Number of records that earn one second more.

A usual template takes a fiftieth of that time.
"""
MEMORY_BYTES = 2 * 2**30
BATCH = 100
"""Number of records sent and answered at once."""

_PROGRAM = "ranksieve.workers.data.templates"


class Renderer:
    """Context manager of a rendering child process, for one thread at a time."""

    def __init__(self) -> None:
        limits = map(str, (CPU_S, RECORDS_PER_S, MEMORY_BYTES))
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", _PROGRAM, *limits],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # an interrupt at the terminal is not a template's fault
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        with suppress(BrokenPipeError):  # a request that a dead child has not read
            self._child.__exit__(None, None, None)
        self._child.wait()

    def render(self, source: str, field: str, records: Sequence[Named]) -> list[str]:
        """Fill a template with records.

        Args:
            source: Jinja text.
            field: Place of the template in the job file, e.g. `task.prompt`, for errors.
            records: Name in messages and content of each record; empty to check the template alone.

        Raises:
            InputError: On `field`, if the template does not parse, does not fit a record, or takes too much
                time or memory.
            InfrastructureError: The child died of another cause.
        """
        texts: list[str] = []
        for start in range(0, len(records) or 1, BATCH):
            batch = records[start : start + BATCH]
            answer = self._ask((source, field, batch))
            if answer is None:
                ends = dict.fromkeys((batch[0][0], batch[-1][0])) if batch else ("the template",)
                raise InputError(
                    field, f"{' to '.join(ends)}: takes more than {CPU_S} s to render; simplify the template"
                )
            if "error" in answer:
                raise InputError(field, answer["error"])
            texts += answer["texts"]
        return texts

    def _ask(self, request: Request) -> dict[str, Any] | None:
        """Return the child's answer; None if it ran out of time."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        with suppress(BrokenPipeError):
            pickle.dump(request, self._child.stdin)
            self._child.stdin.flush()
        line = self._child.stdout.readline()
        if line.endswith(b"\n"):
            answer: dict[str, Any] = json.loads(line)
            return answer
        code = self._child.wait()
        if code == -signal.SIGXCPU:
            return None
        raise InfrastructureError(f"the process that renders templates ended with {code}; try again")
