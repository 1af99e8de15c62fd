"""What a model's files are fetched from the hub in: a process of its own.

The hub's library waits and writes until it is done, for hours where a model is large. A process can be ended whenever
its job is to end; what it has written so far stays in the library's cache, and the next one goes on from there.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from multiprocessing import get_context
from multiprocessing.connection import Connection

from ranksieve.search.errors import CancelledError, InfrastructureError, InputError
from ranksieve.workers.machine.faults import machine_fault
from ranksieve.workers.model import hub
from ranksieve.workers.model.sources import resolve
from ranksieve.workers.types.plan import ModelSource
from ranksieve.workers.types.progress import Progress

POLL_S = 0.2
MB = 10**6
STEPS = 100
"""About so often it is told how far a model is: each time is a transaction."""


def fetch(source: ModelSource, cancelled: threading.Event, on_progress: Callable[[Progress], None]) -> None:
    """Has all files of a model here that a job wants, so that `workers.model.sources.resolve` finds them in its cache.

    Args:
        source: Of the hub; others are here.
        cancelled: Set when the job has to end; checked every 0.2 s.
        on_progress: Told how many MB are here, of the files that have been begun.

    Raises:
        InputError: The model cannot be had.
        InfrastructureError: The machine or the hub failed, and may not do so later.
        CancelledError: `cancelled` was set; the process is killed.
    """
    if source.kind != "hub":
        return
    with _process(source) as answers:
        while True:
            if cancelled.is_set():
                raise CancelledError("the job was cancelled")
            if not answers.poll(POLL_S):
                continue
            try:
                answer = answers.recv()
            except EOFError:
                raise InfrastructureError(
                    f"the process that fetched {source.location!r} died; see the server's log"
                ) from None
            if answer is None:
                return
            if isinstance(answer, Exception):
                raise answer
            on_progress(answer)


@contextmanager
def _process(source: ModelSource) -> Iterator[Connection]:
    """A process that fetches; what it says is Progress, then None or what it failed by."""
    context = get_context("spawn")  # a fork would have the locks of this one's threads
    answers, told = context.Pipe(duplex=False)
    process = context.Process(target=_fetch, args=(source, told), name="fetch", daemon=True)
    process.start()
    told.close()
    try:
        yield answers
    finally:
        process.kill()
        process.join()
        process.close()
        answers.close()


def _fetch(source: ModelSource, told: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it ends it
    hub.configure()
    sending, furthest = threading.Lock(), 0

    def report(done: int, total: int) -> None:
        nonlocal furthest
        here, all_of_it = ceil(done / MB), ceil(total / MB)
        with sending:  # files come in threads of their own
            if here > furthest and (here == all_of_it or STEPS * (here - furthest) >= all_of_it):
                furthest = here
                told.send(Progress(phase="fetch", done=here, total=all_of_it))

    try:
        resolve(source, report=report)
        told.send(None)
    except InputError as error:
        told.send(machine_fault(error) or error)
