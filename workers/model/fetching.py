"""Process that fetches a model's files from the hub.

The hub's library waits and writes until it is done, for hours for a large model. A process can be ended with its job;
what it has written stays in the library's cache, and the next one continues from there.
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
"""Approximate number of progress reports: each one is a transaction."""


def fetch(source: ModelSource, cancelled: threading.Event, on_progress: Callable[[Progress], None]) -> None:
    """Fetch all files of a model that a job needs into the hub library's cache.

    `workers.model.sources.resolve` finds them there.

    Args:
        source: Source on the hub; nothing is fetched for others.
        cancelled: Set when the job has to end; checked every 0.2 s.
        on_progress: Called with the fetched MB of the files begun so far.

    Raises:
        InputError: The model cannot be fetched.
        InfrastructureError: The machine or the hub failed; a retry may succeed.
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
    """Start a process that fetches; it sends Progress, then None or its error."""
    context = get_context("spawn")  # a fork would inherit the locks of this process's threads
    answers, sender = context.Pipe(duplex=False)
    process = context.Process(target=_fetch, args=(source, sender), name="fetch", daemon=True)
    process.start()
    sender.close()
    try:
        yield answers
    finally:
        process.kill()
        process.join()
        process.close()
        answers.close()


def _fetch(source: ModelSource, sender: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends this one
    hub.configure()
    sending, furthest = threading.Lock(), 0

    def report(done: int, total: int) -> None:
        nonlocal furthest
        here, all_of_it = ceil(done / MB), ceil(total / MB)
        with sending:  # each file has a thread of its own
            if here > furthest and (here == all_of_it or STEPS * (here - furthest) >= all_of_it):
                furthest = here
                sender.send(Progress(phase="fetch", done=here, total=all_of_it))

    try:
        resolve(source, report=report)
        sender.send(None)
    except InputError as error:
        sender.send(machine_fault(error) or error)
