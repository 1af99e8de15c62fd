"""What a server's log looks like: lines for people or JSON for machines, with the job and the request, without secrets.

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
    """What is logged in this block, and by what it awaits or hands to the thread pool, is about these.

    Args:
        job: Id of a job; None for that of the block around.
        request: Id of a request; None for that of the block around.
    """
    given = [(variable, id) for variable, id in ((_job, job), (_request, request)) if id is not None]
    tokens = [(variable, variable.set(id)) for variable, id in given]
    try:
        yield
    finally:
        for variable, token in tokens:
            variable.reset(token)


def configure(format: LogFormat, secrets: Sequence[str] = ()) -> None:
    """Sends all logs to stderr, in one form; for a process of its own, before it does anything else.

    Args:
        format: `text` or `json`, one object a line.
        secrets: What must never be in it, besides all that looks like a secret.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(format, secrets))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def formatter(format: LogFormat, secrets: Sequence[str] = ()) -> logging.Formatter:
    """What `configure` formats by."""
    if format == "text":
        return _Redacted(_Lines(_TEXT), secrets)
    inner = JsonFormatter(["levelname", "name", "message"], rename_fields=_NAMES, timestamp="time")
    return _Redacted(inner, [json.dumps(secret)[1:-1] for secret in secrets])


class _Lines(logging.Formatter):
    """Lines for people; each ends with the request that it is about, unless it has named that."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        text, request = super().formatMessage(record), getattr(record, "request_id", None)
        return text if request is None or request in text else f"{text} [request {request}]"


class _Redacted(logging.Formatter):
    """Another formatter's text, told what it is about beforehand and freed of secrets afterwards."""

    def __init__(self, inner: logging.Formatter, secrets: Sequence[str]) -> None:
        super().__init__()
        self._inner = inner
        self._secrets = tuple(secrets)

    def format(self, record: logging.LogRecord) -> str:
        for name, variable in (("job_id", _job), ("request_id", _request)):
            if (id := variable.get()) is not None:
                setattr(record, name, id)
        return redact(self._inner.format(record), self._secrets)
