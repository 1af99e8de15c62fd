"""Connection of the Python client: one server's URL, its key, its errors."""

import os
import uuid
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httpx2

from ranksieve.api.http.hosts import is_loopback
from ranksieve.search.errors import InfrastructureError, InputError, RanksieveError

_TIMEOUT = httpx2.Timeout(30.0, read=600.0)  # a submit may read and tokenize all the data before it answers
_STREAM_TIMEOUT = httpx2.Timeout(30.0, read=60.0)  # the server sends a comment every 15 s


class ApiError(RanksieveError):
    """Refusal of a request; the fields are those of the server's problem document.

    Args:
        status: HTTP status.
        title: The status in words.
        detail: What is wrong.
        errors: `{"field", "detail", "pointer"}` for every offending field of a job file.
    """

    def __init__(self, status: int, title: str, detail: str, errors: list[dict[str, str]]) -> None:
        super().__init__(f"{title} ({status}): {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = errors


class StreamOver(Exception):
    """End of a stream of events: the job has ended, and its last event was seen."""


class Connection:
    """HTTP connection to one server.

    Args:
        base_url: E.g. `http://127.0.0.1:8765`.
        api_key: Sent as a bearer token; needed where the server has one.
        transport: Replaces the network, e.g. in tests. Without one, the environment's proxies are used for every
            server but those of this machine.

    Raises:
        InputError: The URL is invalid, the environment's proxy is not supported, or the key is malformed.
    """

    def __init__(
        self, base_url: str, api_key: str | None = None, transport: httpx2.BaseTransport | None = None
    ) -> None:
        if not (api_key or "").isascii():
            raise InputError("api_key", "has characters that no key has; copy the key again")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            if transport is None and is_loopback(httpx2.URL(base_url).host):
                # never through a proxy, which would see the key
                transport = httpx2.HTTPTransport()
            self._http = httpx2.Client(
                base_url=base_url, headers=headers, transport=transport, timeout=_TIMEOUT
            )
            if self._http.base_url.scheme not in ("http", "https"):
                raise httpx2.InvalidURL("it does not begin with http:// or https://")
        except httpx2.InvalidURL as error:
            raise InputError(
                "url", f"invalid server URL {base_url!r}: {error} (example: http://127.0.0.1:8765)"
            ) from None
        except ImportError as error:  # SOCKS support is not installed
            raise InputError(
                "url", f"cannot reach {base_url!r} through the environment's proxy: {error}"
            ) from None

    @property
    def url(self) -> str:
        """URL of the server."""
        return str(self._http.base_url).rstrip("/")

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def request(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        """Make a request and return the body of its answer.

        Raises:
            ApiError: The server refused the request.
            InfrastructureError: The server cannot be reached, or it is not a ranksieve server.
            InputError: The body to send is not valid JSON.
        """
        response = self.send(method, url, **options)
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise _not_ours(response)
        return body

    def send(self, method: str, url: str, **options: Any) -> httpx2.Response:
        """Make a request like `request`, and return an answer that may not be JSON."""
        try:
            response = self._http.request(method, url, **options)
        except httpx2.TransportError as error:
            base = self._http.base_url
            raise InfrastructureError(f"cannot reach {base}: {error}; is the server running?") from error
        except ValueError as error:  # JSON has no NaN
            raise InputError("request", f"cannot be sent: {error}") from None
        _raise_for_problem(response)
        return response

    def events(self, url: str, after: int, **params: Any) -> Iterator[dict[str, Any]]:
        """Yield server-sent events after number `after` over one connection.

        Raises:
            StreamOver: There will be no more events.
            ApiError: The server refused the request.
            InfrastructureError: The server is not a ranksieve server.
            httpx2.TransportError: The connection broke.
        """
        headers = {"Last-Event-ID": str(after)}
        with self._http.sse(url, params=params, headers=headers, timeout=_STREAM_TIMEOUT) as source:
            _raise_for_problem(source.response)
            if source.response.status_code == HTTPStatus.NO_CONTENT:
                raise StreamOver
            for message in source:
                try:
                    event = message.json()
                except ValueError:
                    event = None
                if not (isinstance(event, dict) and "seq" in event):
                    raise _not_ours(source.response)
                yield event

    def fetch(self, url: str, target: Path) -> None:
        """Download one file to a temporary name next to its target, then rename it.

        Raises:
            ApiError: The server refused the request.
            InfrastructureError: The connection broke.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
        try:
            with self._http.stream("GET", url) as response, part.open("xb") as file:
                _raise_for_problem(response)
                for chunk in response.iter_bytes():
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, target)
        except httpx2.TransportError as error:
            raise InfrastructureError(f"download of {target.name} broke off: {error}") from error
        finally:
            part.unlink(missing_ok=True)


def _not_ours(response: httpx2.Response) -> InfrastructureError:
    return InfrastructureError(f"{response.url} does not answer like ranksieve; is the URL that of a server?")


def _raise_for_problem(response: httpx2.Response) -> None:
    """Raise the problem document of a refused request."""
    if response.is_success:
        return
    response.read()
    try:
        problem = response.json()
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    title = str(problem.get("title", response.reason_phrase))
    detail = str(problem.get("detail", response.text[:200]))
    errors = problem.get("errors")  # other programs answer with problems, too
    fields = [one for one in errors if _is_field_error(one)] if isinstance(errors, list) else []
    raise ApiError(response.status_code, title, detail, fields)


def _is_field_error(error: object) -> bool:
    return isinstance(error, dict) and {"field", "detail"} <= error.keys()
