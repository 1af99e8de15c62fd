"""What the Python client sends requests by: one server's URL, its key, and its refusals as errors."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2

from ranksieve.api.http.hosts import is_loopback
from ranksieve.search.errors import InfrastructureError, InputError, RanksieveError

_TIMEOUT = httpx2.Timeout(30.0, read=600.0)  # a submit may read and tokenize all the data before it answers
_STREAM_TIMEOUT = httpx2.Timeout(30.0, read=60.0)  # the server sends a comment every 15 s


class ApiError(RanksieveError):
    """The server refused a request; the fields are those of its problem document.

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


class Connection:
    """Makes requests of one server.

    Args:
        base_url: E.g. `http://127.0.0.1:8765`.
        api_key: Sent as a bearer token; needed where the server has one.
        transport: Stands in for the network, e.g. in tests. Without one, the environment's proxies lead to any
            server but those of this machine.

    Raises:
        InputError: The URL is none, no proxy like the environment's is supported, or no key looks like this one.
    """

    def __init__(
        self, base_url: str, api_key: str | None = None, transport: httpx2.BaseTransport | None = None
    ) -> None:
        if not (api_key or "").isascii():
            raise InputError("api_key", "has characters that are in no key; copy it anew")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            if transport is None and is_loopback(httpx2.URL(base_url).host):
                # never through a proxy, which is elsewhere and sees the key
                transport = httpx2.HTTPTransport()
            self._http = httpx2.Client(
                base_url=base_url, headers=headers, transport=transport, timeout=_TIMEOUT
            )
            if self._http.base_url.scheme not in ("http", "https"):
                raise httpx2.InvalidURL("it does not begin with http:// or https://")
        except httpx2.InvalidURL as error:
            raise InputError(
                "url", f"{base_url!r} is none: {error}; expected http://127.0.0.1:8765"
            ) from None
        except ImportError as error:  # of what a SOCKS proxy takes
            raise InputError("url", f"{base_url!r} lies behind the environment's proxy: {error}") from None

    @property
    def url(self) -> str:
        """The server's."""
        return str(self._http.base_url).rstrip("/")

    def close(self) -> None:
        """Close all there is to the server."""
        self._http.close()

    def request(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        """Makes a request; returns the body of its answer.

        Raises:
            ApiError: The server refused it.
            InfrastructureError: No such server, or it does not answer like one of ours.
            InputError: What is to be sent is no JSON.
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
        """As `request`, of an answer that has no JSON for a body."""
        try:
            response = self._http.request(method, url, **options)
        except httpx2.TransportError as error:
            base = self._http.base_url
            raise InfrastructureError(f"cannot reach {base}: {error}; is the server running?") from error
        except ValueError as error:  # JSON has no NaN
            raise InputError("request", f"cannot be sent: {error}") from None
        _raise_for_problem(response)
        return response

    def events(self, url: str, after: int) -> Iterator[dict[str, Any]]:
        """One connection's worth of server-sent events behind number `after`.

        Raises:
            ApiError: The server refused it.
            InfrastructureError: It does not answer like one of ours.
            httpx2.TransportError: It broke off.
        """
        headers = {"Last-Event-ID": str(after)}
        with self._http.sse(url, headers=headers, timeout=_STREAM_TIMEOUT) as source:
            _raise_for_problem(source.response)
            for message in source:
                try:
                    event = message.json()
                except ValueError:
                    event = None
                if not (isinstance(event, dict) and "seq" in event):
                    raise _not_ours(source.response)
                yield event

    def fetch(self, url: str, target: Path) -> None:
        """Streams one file to a temporary name beside its target, then renames it.

        Raises:
            ApiError: The server refused it.
            InfrastructureError: It broke off.
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
    fields = [one for one in errors if _is_of_a_field(one)] if isinstance(errors, list) else []
    raise ApiError(response.status_code, title, detail, fields)


def _is_of_a_field(error: object) -> bool:
    return isinstance(error, dict) and {"field", "detail"} <= error.keys()
