"""Asks something that may never answer, without being held up: one question at a time, in a thread of its own."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError

logger = logging.getLogger(__name__)


class Probe:
    """Tells whether a question is answered in time.

    Args:
        question: What is asked; returns whether all is well. It may hang or raise.
        timeout_s: Longest wait for an answer, in seconds.
    """

    def __init__(self, question: Callable[[], bool], timeout_s: float = 2.0) -> None:
        self._question = question
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._asked: Future[bool] | None = None

    def __call__(self) -> bool:
        """Asks, or waits for the answer to what was asked before and is still open."""
        with self._lock:
            if self._asked is None or self._asked.done():
                self._asked = Future()
                threading.Thread(target=self._ask, args=(self._asked,), name="probe", daemon=True).start()
            asked = self._asked
        try:
            return asked.result(self._timeout_s)
        except TimeoutError:
            return False

    def _ask(self, asked: "Future[bool]") -> None:
        try:
            asked.set_result(self._question())
        except Exception as error:  # whatever it is, the answer is no, and the next question is open
            logger.warning("no answer: %s", error)
            asked.set_result(False)
