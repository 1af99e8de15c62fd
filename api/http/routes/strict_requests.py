"""Refusal of request parts that a route would ignore.

These are unknown names in the query and repeated keys in the body. Ignoring them would run another request than was
meant: `?dryrun=true` would queue a job.
"""

import json
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute

from ranksieve.api.spec_errors import FieldPath, dotted, suggestion
from ranksieve.search.errors import InputError


async def refuse_ignored(request: Request) -> None:
    """Refuse unknown query names and repeated keys; a dependency of all routes.

    Raises:
        RequestValidationError: The query has names that the route does not know.
        InputError: An object of the body has a key twice; names it.
    """
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    _refuse_unknown(list(request.query_params), [field.alias for field in route.dependant.query_params])
    if route.body_field is not None:
        await run_in_threadpool(_refuse_repeated, await request.body())  # a large one takes a while


def _refuse_unknown(given: list[str], known: list[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        detail = {name: f"unknown parameter; {suggestion(name, known)}" for name in unknown}
        raise RequestValidationError(
            [{"type": "extra_forbidden", "loc": ("query", name), "msg": detail[name]} for name in unknown]
        )


def _refuse_repeated(body: bytes) -> None:
    try:
        repeats, document = _parsed(body)
    except (ValueError, RecursionError):  # refused by the route, which cannot read it either
        return
    if repeats:
        path = next(_repeated(document))
        raise InputError(dotted(path), "given twice; merge the two into one")


def _parsed(body: bytes) -> tuple[bool, Any]:
    """Parse a JSON text, its objects as tuples of pairs; report whether keys repeat."""
    repeats = False

    def pairs_of(pairs: list[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
        nonlocal repeats
        repeats = repeats or len(dict(pairs)) < len(pairs)
        return tuple(pairs)

    document = json.loads(body, object_pairs_hook=pairs_of)
    return repeats, document


def _repeated(document: Any) -> Iterator[FieldPath]:
    """Yield the paths of repeated keys, the outermost first."""
    waiting: deque[tuple[FieldPath, Any]] = deque([((), document)])
    while waiting:
        path, value = waiting.popleft()
        pairs = value if isinstance(value, tuple) else tuple(enumerate(value))
        yield from ((*path, name) for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        waiting.extend(((*path, name), item) for name, item in pairs if isinstance(item, tuple | list))
