"""A probe that asks a question which may never be answered, with a time limit.

One question is asked at a time, in a thread of its own.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError

logger = logging.getLogger(__name__)


class Probe:
    """Probe of whether a question is answered in time.

    Args:
        question: Function that returns whether all is well; it may hang or raise.
        timeout_s: Longest wait for an answer, in seconds.
    """

    def __init__(self, question: Callable[[], bool], timeout_s: float = 2.0) -> None:
        self._question = question
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._pending: Future[bool] | None = None

    def __call__(self) -> bool:
        """Return the answer, or False after the timeout.

        An open question is waited for, not asked again.
        """
        with self._lock:
            if self._pending is None or self._pending.done():
                self._pending = Future()
                threading.Thread(target=self._ask, args=(self._pending,), name="probe", daemon=True).start()
            pending = self._pending
        try:
            return pending.result(self._timeout_s)
        except TimeoutError:
            return False

    def _ask(self, pending: "Future[bool]") -> None:
        try:
            pending.set_result(self._question())
        except Exception as error:  # any error is a no, and the next question may be asked
            logger.warning("no answer: %s", error)
            pending.set_result(False)
