"""Format of a server's log: text or JSON, with job and request, no secrets.

with about(job="0650…"):
    logger.info("started")          # {"time": …, "level": "INFO", "logger": …, "message": "started", "job_id": "0650…"}
"""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

from ranksieve.service.job.redaction import redact

LogFormat = Literal["text", "json"]

_TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_NAMES = {"levelname": "level", "name": "logger", "exc_info": "exception"}
_job: ContextVar[str | None] = ContextVar("job", default=None)
_request: ContextVar[str | None] = ContextVar("request", default=None)


@contextmanager
def about(*, job: str | None = None, request: str | None = None) -> Iterator[None]:
    """Attach a job and a request to all that is logged in this block.

    This includes code that the block awaits or hands to the thread pool.

    Args:
        job: Id of a job; None keeps that of the outer block.
        request: Id of a request; None keeps that of the outer block.
    """
    given = [(variable, id) for variable, id in ((_job, job), (_request, request)) if id is not None]
    tokens = [(variable, variable.set(id)) for variable, id in given]
    try:
        yield
    finally:
        for variable, token in tokens:
            variable.reset(token)


def configure(format: LogFormat, secrets: Sequence[str] = ()) -> None:
    """Send all logs to stderr, in one format.

    Called by a process of its own, before it does anything else.

    Args:
        format: `text` or `json`, one object a line.
        secrets: Texts to redact, besides all that look like secrets.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(format, secrets))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def formatter(format: LogFormat, secrets: Sequence[str] = ()) -> logging.Formatter:
    """Return the formatter that `configure` uses."""
    if format == "text":
        return _Redacted(_Lines(_TEXT), secrets)
    inner = JsonFormatter(["levelname", "name", "message"], rename_fields=_NAMES, timestamp="time")
    return _Redacted(inner, [json.dumps(secret)[1:-1] for secret in secrets])


class _Lines(logging.Formatter):
    """Formatter of lines for people, each with its request at the end.

    A line that names its request already stays as it is.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        text, request = super().formatMessage(record), getattr(record, "request_id", None)
        return text if request is None or request in text else f"{text} [request {request}]"


class _Redacted(logging.Formatter):
    """Formatter that adds the ids to another one's text and redacts secrets."""

    def __init__(self, inner: logging.Formatter, secrets: Sequence[str]) -> None:
        super().__init__()
        self._inner = inner
        self._secrets = tuple(secrets)

    def format(self, record: logging.LogRecord) -> str:
        for name, variable in (("job_id", _job), ("request_id", _request)):
            if (id := variable.get()) is not None:
                setattr(record, name, id)
        return redact(self._inner.format(record), self._secrets)
