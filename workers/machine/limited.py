"""Child processes with limits, for work on other people's files.

A library that reads a hostile file may loop, or take all memory and abort; a template is a program. The kernel limits a
child's processor time, this process its memory and its wall time. The kernel's own limit of memory is only for what
happens between two looks: a library that is refused memory may wait for itself without end.

Children are forked from a process that has imported everything, so that one costs milliseconds. Their answers are JSON,
checked against the function's return type: nothing from a child is unpickled or executed.
"""

import json
import multiprocessing.forkserver
import os
import resource
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import psutil
from pydantic import TypeAdapter

from ranksieve.search.errors import CancelledError, InfrastructureError, InputError
from ranksieve.workers.machine import limits
from ranksieve.workers.machine.child import CPU_S, begin, send, step
from ranksieve.workers.machine.devices import lack_of_memory
from ranksieve.workers.machine.faults import machine_fault

R = TypeVar("R")

WALL_S = 1800
"""Time that a child may take, in seconds; it may have to fetch a data set from the hub."""
LEAST_BYTES, MOST_BYTES = 2**30, 4 * 2**30
SHARE = 8
"""Part of the machine's memory that one child may take, within these bounds."""
POLL_S = 0.1
NICENESS = 10
"""Steps of priority below the server, whose answers must not wait for checks."""

PRELOADED = ("datasets", "pyarrow.parquet", "transformers.models.llama.modeling_llama")
"""Modules that functions import only where they need them."""

_DAMAGE = {signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL}
"""Signals of a library that crashed, mostly for want of memory."""

_context = get_context("forkserver")


def start(function: Callable[..., Any]) -> None:
    """Start the process that children are forked from, if it is not running.

    It goes on by itself, importing a function's module, which takes seconds.
    """
    _context.set_forkserver_preload([function.__module__, *PRELOADED])
    multiprocessing.forkserver.ensure_running()


def memory_bytes() -> int:
    """Return the memory that one child may take."""
    return max(LEAST_BYTES, min(limits.memory_bytes() // SHARE, MOST_BYTES))


def run_limited(function: Callable[..., R], *args: Any, cancelled: threading.Event | None = None) -> R:
    """Call a function of a module in a child with limits.

    Args:
        function: Function whose annotated result can be written as JSON. It calls `step` before each step.
        args: Its arguments.
        cancelled: Ends the child when it is set; checked every 0.1 s.

    Raises:
        InputError: The function raised it, or a step took too much memory or time; names the step and its field.
        InfrastructureError: The child died of another cause.
        CancelledError: `cancelled` was set.
    """
    start(function)
    answers, sender = _context.Pipe(duplex=False)
    most_bytes = memory_bytes()
    child = _context.Process(
        target=_call,
        args=(sender, get_temp_dir(), NICENESS, most_bytes, CPU_S, function, args),
        daemon=True,
    )
    field, what, cpu_s = "model", "starting", float(CPU_S)
    child.start()
    sender.close()
    began_bytes, deadline_s = _memory_of(child.pid), time.monotonic() + WALL_S
    try:
        while True:
            if cancelled is not None and cancelled.is_set():
                raise CancelledError("nobody waits for the result any more")
            if time.monotonic() > deadline_s:
                raise InputError(
                    field, f"{what}: the check takes more than {WALL_S} s; simplify or shorten it"
                )
            if _memory_of(child.pid) > most_bytes + began_bytes:
                raise _too_large(field, what, most_bytes)
            if not answers.poll(POLL_S):
                continue
            try:
                kind, *values = json.loads(answers.recv_bytes())
            except EOFError:
                raise _death(child, field, what, cpu_s, most_bytes) from None
            match kind:
                case "step":
                    field, what, cpu_s = values
                case "result":
                    return _adapter(function).validate_json(answers.recv_bytes(most_bytes))
                case "memory":
                    raise _too_large(field, what, most_bytes)
                case "input":
                    *named, fault = values
                    raise InputError(*named) from (InfrastructureError(fault) if fault else None)
                case "machine":
                    raise InfrastructureError(*values)
                case _:
                    raise RuntimeError(*values)
    finally:
        child.kill()
        child.join()
        child.close()
        answers.close()


def run_here(function: Callable[..., R], *args: Any, cancelled: threading.Event | None = None) -> R:
    """Call a function in this process, without limits.

    It is for the user's own machine, and for tests.
    """
    return function(*args)


def _memory_of(pid: int | None) -> int:
    """Return the memory of a process without that of files; 0 if it has ended."""
    with suppress(psutil.NoSuchProcess):
        info = psutil.Process(pid).memory_info()
        return int(info.rss - getattr(info, "shared", 0))  # Linux alone tells
    return 0


def _adapter(function: Callable[..., R]) -> TypeAdapter[R]:
    return TypeAdapter(get_type_hints(function)["return"])


def _death(child: BaseProcess, field: str, what: str, cpu_s: float, most_bytes: int) -> Exception:
    """Return the error of a child that has died without an answer."""
    child.join()
    code = child.exitcode or 0
    if code == -signal.SIGXCPU:
        return InputError(
            field, f"{what} takes more than {cpu_s:.0f} s of processor time; simplify or shorten it"
        )
    if -code in _DAMAGE:
        return _too_large(field, what, most_bytes)
    return InfrastructureError(f"{what}: its process ended with {code}; see the server's log")


def _too_large(field: str, what: str, most_bytes: int) -> InputError:
    return InputError(
        field,
        f"{what} takes more than {most_bytes / 2**30:.1f} GiB of memory, or crashes the library that does it; simplify "
        "or shorten it",
    )


def _call(
    answers: Connection,
    folder: str,
    niceness: int,
    most_bytes: int,
    cpu_s: int,
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    """Answer with the result of a function, or its error; runs in the child."""
    begin(answers, cpu_s)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends this one
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # a library that aborts may write pages
    os.nice(niceness)
    os.chdir(folder)  # without subfolders: no id of a data set is a path from here
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most_data = _data_bytes() + 2 * most_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (most_data, most_data))
    with suppress(BrokenPipeError):  # the parent has died
        try:
            step("model", "starting")
            result = _adapter(function).dump_json(function(*args))
            send("result")
            answers.send_bytes(result)
        except MemoryError:
            send("memory")
        except InputError as error:
            if error.__cause__ is not None and lack_of_memory(error.__cause__):
                send("memory")
            else:
                fault = machine_fault(error)
                send("input", error.field, error.message, fault and str(fault))
        except InfrastructureError as error:
            send("machine", str(error))
        except Exception:  # a bug, for the parent's log
            send("bug", traceback.format_exc())


def _data_bytes() -> int:
    """Return the memory that counts for the limit at the start.

    Most of it is shared with the forking process.
    """
    with suppress(OSError):  # of Linux alone
        return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    return 0
