"""Job files as bodies: JSON, or YAML as the command line reads it.

Errors of YAML have lines. It is parsed in Python, a hundred times slower than JSON, so that less of it is taken. Its
places are found only once there is an error, by parsing it again: a check may wait for minutes, and they need more
memory than the text.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.types import Scope

from ranksieve.api.http.places import Places
from ranksieve.api.http.requests.json_bodies import JsonRoute
from ranksieve.api.spec_text import MalformedError, SpecText
from ranksieve.search.errors import InputError

YAML = "application/yaml"
"""Media type of YAML.

Source: RFC 9512.
"""
MOST_YAML_BYTES = 64 * 1024
"""Largest YAML body; the worst takes a second to parse."""


class SpecRoute(JsonRoute):
    """Route whose body is a job file in JSON or YAML.

    Sets `request.state.place`, which gives JSON pointers into a refused YAML body their places.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of JSON, with places for errors."""
        handle = super().get_route_handler()

        async def read(request: Request) -> Response:
            try:
                return await handle(request)
            except MalformedError as error:
                place = error.place
                request.state.place = lambda pointer: place
                raise
            except (RequestValidationError, InputError):
                if hasattr(request.state, "yaml"):
                    request.state.place = (await _parsed(request)).place
                raise

        return read

    def readable(self, request: Request) -> Request:
        """Return a request whose `json` reads YAML where that was sent."""
        kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return (
            _YamlRequest(_as_json(request.scope), request.receive)
            if kind == YAML
            else super().readable(request)
        )


class _YamlRequest(Request):
    async def json(self) -> Any:
        self.state.yaml = await self.body()
        return (await _parsed(self)).value


async def _parsed(request: Request) -> SpecText:
    """Parse a body in one of its owner's places for checks.

    So bodies of others need not wait for it.
    """
    places: Places = request.app.state.places
    return await places.run(request, request.state.principal.owner, lambda _: _parse(request.state.yaml))


def _as_json(scope: Scope) -> Scope:
    """Return a scope whose body FastAPI takes for JSON, and so asks `json` for."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
    return {**scope, "headers": [*headers, (b"content-type", b"application/json")]}


def _parse(body: bytes) -> SpecText:
    if len(body) > MOST_YAML_BYTES:
        raise MalformedError(
            f"must have at most {MOST_YAML_BYTES:,} bytes as YAML; got {len(body):,}. Send larger job files as JSON"
        )
    try:
        return SpecText(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise MalformedError(f"not UTF-8 text: {error.reason} at byte {error.start}") from None
