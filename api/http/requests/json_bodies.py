"""JSON bodies: bounded before they are parsed, and parsed off the event loop.

Repeated keys are refused.

A parser and a validator hold the interpreter for as long as they run, so nobody else is answered meanwhile. What they
may cost is bounded by the number of keys and values, which is counted first and is cheap to count.
"""

import json
import re
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from ranksieve.api.spec_errors import BODY, FieldPath, dotted
from ranksieve.search.errors import InputError, RanksieveError

MOST_KEYS = 20_000
"""Most keys of all objects of a body; a task may have 10,000 choices with names."""
MOST_VALUES = 200_000
"""Most values of a body; a seed has a rank for each matrix, tens of thousands in a mixture of experts."""
PARSERS = 1
"""Bodies parsed at once: the interpreter parses one at a time anyway."""

_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[{,:]', re.DOTALL)
"""A text, closed or not, or a character before a value; never scans a byte twice."""


class JsonRoute(APIRoute):
    """Route whose JSON body is bounded and has no key twice."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return FastAPI's handler, which gets its document from `readable`."""
        handle = super().get_route_handler()

        async def read(request: Request) -> Response:
            try:
                return await handle(self.readable(request))
            except HTTPException as error:
                # FastAPI calls every error of `json` unreadable
                if isinstance(error.__cause__, RanksieveError):
                    raise error.__cause__ from None
                raise

        return read

    def readable(self, request: Request) -> Request:
        """Return a request whose `json` is bounded."""
        return _JsonRequest(request.scope, request.receive)


class _JsonRequest(Request):
    async def json(self) -> Any:
        limiter: CapacityLimiter = self.app.state.parsers
        return await to_thread.run_sync(_parsed, await self.body(), limiter=limiter)


def _parsed(body: bytes) -> Any:
    """Parse a JSON text.

    Raises:
        InputError: It has too many keys or values, or an object has a key twice; names the key.
        ValueError: It is not JSON, or not UTF-8.
    """
    text = body.decode("utf-8-sig")
    _refuse_large(text)
    repeats = False

    def mapping_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeats
        mapping = dict(pairs)
        repeats = repeats or len(mapping) < len(pairs)
        return mapping

    document = json.loads(text, object_pairs_hook=mapping_of)
    if repeats:
        path = next(_repeated(json.loads(text, object_pairs_hook=tuple)))
        raise InputError(dotted(path), "given twice; merge the two into one")
    return document


def _refuse_large(text: str) -> None:
    keys = values = 0
    for token in _TOKEN.finditer(text):
        match token[0]:
            case ":":
                keys += 1
            case "[" | "{" | ",":
                values += 1
        if keys > MOST_KEYS or values > MOST_VALUES:
            raise InputError(
                BODY,
                f"must have at most {MOST_KEYS:,} keys and {MOST_VALUES:,} values; got more. A job file names its data "
                "and holds none",
            )


def _repeated(document: Any) -> Iterator[FieldPath]:
    """Yield the paths of repeated keys, outermost first.

    Objects are tuples of pairs.
    """
    waiting: deque[tuple[FieldPath, Any]] = deque([((), document)])
    while waiting:
        path, value = waiting.popleft()
        pairs = value if isinstance(value, tuple) else tuple(enumerate(value))
        yield from ((*path, name) for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        waiting.extend(((*path, name), item) for name, item in pairs if isinstance(item, tuple | list))
