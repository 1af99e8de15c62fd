"""The Python client: the REST API as methods, the event stream as an iterator that survives disconnects."""

import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx2

from api.hosts import is_loopback
from api.webhook_client import Webhooks
from search.errors import InfrastructureError, InputError, NotFoundError, RanksieveError
from service.jobs import JobState

_TIMEOUT = httpx2.Timeout(30.0, read=600.0)  # a submit may read and tokenize all the data before it answers
_STREAM_TIMEOUT = httpx2.Timeout(30.0, read=60.0)  # the server sends a comment every 15 s
_RECONNECT_DELAYS_S = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)


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


class Client:
    """Talks to one server.

    Args:
        base_url: E.g. `http://127.0.0.1:8765`.
        api_key: Sent as a bearer token; needed where the server has one.
        transport: Stands in for the network, e.g. in tests. Without one, the environment's proxies lead to any
            server but those of this machine.
        wait: Called with the seconds to wait before a reconnect.

    Raises:
        InputError: The URL is none, no proxy like the environment's is supported, or no key looks like this one.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        transport: httpx2.BaseTransport | None = None,
        *,
        wait: Callable[[float], None] = time.sleep,
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
        self._wait = wait
        self.webhooks = Webhooks(self._request, self._send, wait)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def submit(self, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> dict[str, Any]:
        """Submit a job; returns it, queued.

        Args:
            spec: The job file.
            idempotency_key: Any name for this submission; sent again under it, it makes no second job.

        Raises:
            ApiError: The spec was refused; `errors` names the fields.
        """
        headers = _given(**{"Idempotency-Key": idempotency_key})
        return self._request("POST", "/v1/jobs", json=dict(spec), headers=headers)

    def estimate(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """What a job would need; submits nothing.

        Raises:
            ApiError: The spec was refused; `errors` names the fields.
        """
        return self._request("POST", "/v1/jobs", params={"dry_run": True}, json=dict(spec))

    def job(self, job_id: str) -> dict[str, Any]:
        """One job with its spec and result."""
        return self._request("GET", _path(job_id))

    def jobs(
        self,
        *,
        states: Iterable[str] = (),
        labels: Mapping[str, str] | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> list[dict[str, Any]]:
        """Jobs, newest first, in one of these states, with all these labels, behind the one with the id `after`."""
        label = [f"{name}:{value}" for name, value in (labels or {}).items()]
        params = _given(state=list(states) or None, label=label or None, limit=limit, after=after)
        return list(self._request("GET", "/v1/jobs", params=params)["jobs"])

    def change(self, job_id: str, changes: Mapping[str, Any], *, etag: str | None = None) -> dict[str, Any]:
        """Change a job; returns it.

        Args:
            job_id: The job.
            changes: Any of `name`, `labels`, `priority`, `actors` and `search` with `generations` and
                `max_evaluations`.
            etag: The job is changed only if it is still the one of this `ETag`.

        Raises:
            ApiError: The change was refused; status 412 if the job is another one by now.
        """
        headers = _given(**{"If-Match": etag})
        return self._request("PATCH", _path(job_id), json=dict(changes), headers=headers)

    def pause(self, job_id: str) -> dict[str, Any]:
        """Ask a job to start nothing new and wait; returns it, which may still be finishing what is in flight."""
        return self._request("POST", _path(job_id, "pause"))

    def resume(self, job_id: str) -> dict[str, Any]:
        """Queue a paused or crashed job again; returns it."""
        return self._request("POST", _path(job_id, "resume"))

    def stop(self, job_id: str) -> dict[str, Any]:
        """Ask a job to end with what it has found; returns it, which has yet to confirm and export that."""
        return self._request("POST", _path(job_id, "stop"))

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Ask a job to end; returns it, which may still be ending."""
        return self._request("POST", _path(job_id, "cancel"))

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended, with its files."""
        self._send("DELETE", _path(job_id))

    def events(self, job_id: str, after: int = 0) -> Iterator[dict[str, Any]]:
        """Follow a job: every event after `after`, ending with the one that says how it ended.

        A broken connection is taken up again where it ended, also after too many requests.

        Raises:
            ApiError: No such job, or the key is wrong.
            InfrastructureError: The server stayed away.
        """
        delays = iter(_RECONNECT_DELAYS_S)
        while True:
            try:
                for event in self._stream(job_id, after):
                    after = int(event["seq"])
                    delays = iter(_RECONNECT_DELAYS_S)
                    yield event
                if self._ended(job_id, after):
                    return
                reason: object = "the stream ended early"
                delays = iter(_RECONNECT_DELAYS_S)  # the server is there, the stream was cut on its way
            except (httpx2.TransportError, InfrastructureError) as error:
                reason = error
            except ApiError as error:
                if (
                    error.status < HTTPStatus.INTERNAL_SERVER_ERROR
                    and error.status != HTTPStatus.TOO_MANY_REQUESTS
                ):
                    raise
                reason = error
            delay = next(delays, None)
            if delay is None:
                raise InfrastructureError(f"lost the events of job {job_id}: {reason}")
            self._wait(delay)

    def generations(self, job_id: str, *, after: int = -1, limit: int = 1000) -> list[dict[str, Any]]:
        """The generations of a job's search after number `after`, in order."""
        params = {"after": after, "limit": limit}
        return list(self._request("GET", _path(job_id, "generations"), params=params)["generations"])

    def candidates(
        self,
        job_id: str,
        *,
        limit: int = 100,
        offset: int = 0,
        after: int | None = None,
        generation: int | None = None,
        pareto: bool = False,
    ) -> list[dict[str, Any]]:
        """Scored candidates of a job: all, of one generation, or with `pareto` those that no smaller one beats."""
        params = _given(limit=limit, offset=offset, after=after, generation=generation, pareto=pareto or None)
        return list(self._request("GET", _path(job_id, "candidates"), params=params)["candidates"])

    def export(
        self, job_id: str, *, share: float | None = None, candidate: int | None = None
    ) -> dict[str, Any]:
        """Ask a job that succeeded for one more model; returns the export, a small job with an `id` of its own.

        Args:
            job_id: The job.
            share: The best candidate that keeps at most so much of the prunable parameters.
            candidate: Or the one with this `id`, see `candidates`.

        Raises:
            ApiError: No candidate is so small, or the job has not succeeded.
        """
        return self._request("POST", _path(job_id, "exports"), json=_given(share=share, candidate=candidate))

    def exports(self, job_id: str) -> list[dict[str, Any]]:
        """The exports of a job, newest first."""
        return list(self._request("GET", _path(job_id, "exports"))["exports"])

    def models(self) -> dict[str, Any]:
        """The local `models` that a job could start from, and whether that is all of them: `complete`."""
        return self._request("GET", "/v1/models")

    def tasks(self) -> list[dict[str, Any]]:
        """The kinds of tasks: what each means, which fields of `task` it takes, its metric and an example."""
        return list(self._request("GET", "/v1/tasks")["tasks"])

    def artifacts(self, job_id: str) -> list[dict[str, Any]]:
        """The files of the exported model of a job, or of an export."""
        return list(self._request("GET", _path(job_id, "artifacts"))["artifacts"])

    def download(self, job_id: str, directory: Path) -> list[Path]:
        """Fetch the exported model of a job, or of an export, into a folder; returns the files in it.

        Raises:
            ApiError: No such job.
            NotFoundError: It has no exported model.
            InputError: The folder holds files of something else.
            InfrastructureError: The server offered a name outside the folder, or a transfer broke.
        """
        names = [str(artifact["name"]) for artifact in self.artifacts(job_id)]
        if not names:
            raise NotFoundError(f"job {job_id} is {self.job(job_id)['state']}; it has no exported model")
        targets = [_inside(directory, name) for name in names]
        _refuse_others(targets)
        for name, target in zip(names, targets, strict=True):
            self._fetch(_path(job_id, "artifacts", *PurePosixPath(name).parts), target)
        return targets

    def _ended(self, job_id: str, after: int) -> bool:
        """Whether a job has ended and `after` was its last event."""
        if not JobState(self.job(job_id)["state"]).ended:
            return False
        params = {"after": after, "limit": 1}
        return not self._request("GET", _path(job_id, "events"), params=params)["events"]

    def _stream(self, job_id: str, after: int) -> Iterator[dict[str, Any]]:
        """One connection's worth of events."""
        headers = {"Last-Event-ID": str(after)}
        with self._http.sse(_path(job_id, "events"), headers=headers, timeout=_STREAM_TIMEOUT) as source:
            _raise_for_problem(source.response)
            for message in source:
                event = message.json()
                assert isinstance(event, dict)
                yield event

    def _fetch(self, url: str, target: Path) -> None:
        """Stream one file to a temporary name beside its target, then rename it."""
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

    def _request(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        response = self._send(method, url, **options)
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise InfrastructureError(
                f"{response.url} does not answer like ranksieve; is the URL that of a server?"
            )
        return body

    def _send(self, method: str, url: str, **options: Any) -> httpx2.Response:
        try:
            response = self._http.request(method, url, **options)
        except httpx2.TransportError as error:
            base = self._http.base_url
            raise InfrastructureError(f"cannot reach {base}: {error}; is the server running?") from error
        except ValueError as error:  # JSON has no NaN
            raise InputError("request", f"cannot be sent: {error}") from None
        _raise_for_problem(response)
        return response


def _refuse_others(targets: Sequence[Path]) -> None:
    """Checks that no files but hidden ones lie beside the targets: transformers might read them, too.

    Raises:
        InputError: There are some.
    """
    for folder in {target.parent for target in targets if target.parent.is_dir()}:
        beside = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
        if others := sorted(set(beside) - set(targets)):
            raise InputError("output", f"must hold no other model; {others[0]} is not of this one")


def _path(job_id: str, *parts: str) -> str:
    return "/v1/jobs/" + "/".join(quote(part, safe="") for part in (job_id, *parts))


def _given(**params: object) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


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
    raise ApiError(response.status_code, title, detail, list(problem.get("errors", [])))


def _inside(directory: Path, name: str) -> Path:
    """Where a file of this name belongs; refuses names that point out of the folder."""
    parts = PurePosixPath(name).parts
    unsafe = not parts or name.startswith("/") or "\\" in name or ":" in name or ".." in parts
    target = directory.resolve().joinpath(*parts)
    if unsafe or not target.resolve().is_relative_to(directory.resolve()):
        raise InfrastructureError(f"the server offered a file outside the target folder: {name!r}")
    return target
