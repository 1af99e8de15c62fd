"""Client of the REST API, with an event iterator that survives disconnects."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

import httpx2

from ranksieve.api.client.connection import ApiError, Connection, StreamOver
from ranksieve.api.client.targets import inside, refuse_others, table_format
from ranksieve.api.client.webhooks import Webhooks
from ranksieve.search.errors import InfrastructureError, NotFoundError

_RECONNECT_DELAYS_S = (0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)


class Client:
    """Client of one server.

    Args:
        base_url: URL of the server, see `Connection`, e.g. `http://127.0.0.1:8765`.
        api_key: See `Connection`.
        transport: See `Connection`.
        wait: Called with the seconds to wait before a reconnect.

    Raises:
        InputError: The URL is invalid, the environment's proxy is not supported, or the key is malformed.
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        transport: httpx2.BaseTransport | None = None,
        *,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self.connection = Connection(base_url, api_key, transport)
        """Connection for requests that no method makes."""
        self._wait = wait
        self.webhooks = Webhooks(self.connection, wait)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.connection.close()

    def submit(self, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> dict[str, Any]:
        """Submit a job and return it, queued.

        Args:
            spec: The job file.
            idempotency_key: Any name for this submission; a repeat with the same name creates no second job.

        Raises:
            ApiError: The spec was refused; `errors` names the fields.
        """
        headers = _given(**{"Idempotency-Key": idempotency_key})
        return self.connection.request("POST", "/v1/jobs", json=dict(spec), headers=headers)

    def estimate(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Estimate what a job would need, without submitting it.

        Raises:
            ApiError: The spec was refused; `errors` names the fields.
        """
        return self.connection.request("POST", "/v1/estimates", json=dict(spec))

    def job(self, job_id: str) -> dict[str, Any]:
        """Return one job with its spec and result."""
        return self.connection.request("GET", _path(job_id))

    def jobs(
        self,
        *,
        states: Iterable[str] = (),
        labels: Mapping[str, str] | None = None,
        search: str | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return jobs, newest first.

        Filters: in one of the `states`, with all `labels`, with `search` in name or owner or where the id begins, after
        the job with the id `after` in this order.
        """
        label = [f"{name}:{value}" for name, value in (labels or {}).items()]
        params = _given(
            state=list(states) or None, label=label or None, search=search, limit=limit, after=after
        )
        return list(self.connection.request("GET", "/v1/jobs", params=params)["jobs"])

    def change(self, job_id: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Change a job and return it.

        Args:
            job_id: The job.
            changes: Any of `name`, `labels`, `priority` and `actors`.

        Raises:
            ApiError: The change was refused.
        """
        return self.connection.request("PATCH", _path(job_id), json=dict(changes))

    def pause(self, job_id: str) -> dict[str, Any]:
        """Pause a job and return it; its run may take a moment to end."""
        return self.connection.request("POST", _path(job_id, "pause"))

    def resume(self, job_id: str) -> dict[str, Any]:
        """Queue a paused or crashed job again and return it."""
        return self.connection.request("POST", _path(job_id, "resume"))

    def stop(self, job_id: str) -> dict[str, Any]:
        """Ask a job to end its search and return the job.

        It still confirms and exports what it has found.
        """
        return self.connection.request("POST", _path(job_id, "stop"))

    def cancel(self, job_id: str) -> dict[str, Any]:
        """Cancel a job and return it; it may still be ending."""
        return self.connection.request("POST", _path(job_id, "cancel"))

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended, with its files."""
        self.connection.send("DELETE", _path(job_id))

    def events(self, job_id: str, after: int = 0, *, types: Iterable[str] = ()) -> Iterator[dict[str, Any]]:
        """Yield a job's events after `after`, up to the one that ends the job.

        A broken connection is resumed where it ended, also after too many requests.

        Args:
            job_id: The job.
            after: `seq` of the last event already seen.
            types: Only events of one of these types, such as `generation.completed`; empty: all.

        Raises:
            ApiError: No such job, or the key is wrong.
            InfrastructureError: The server could not be reached again.
        """
        params = _given(type=list(types) or None)
        delays = iter(_RECONNECT_DELAYS_S)
        while True:
            before = after
            try:
                for event in self.connection.events(_path(job_id, "events"), after, **params):
                    after = int(event["seq"])
                    delays = iter(_RECONNECT_DELAYS_S)
                    yield event
                if after > before:
                    continue  # ask whether that was all
                reason: object = "the stream ended early"
                delays = iter(_RECONNECT_DELAYS_S)  # the server is there, the stream was cut on its way
            except StreamOver:
                return
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
        """Return the generations of a job's search after number `after`, in order."""
        params = {"after": after, "limit": limit}
        return list(
            self.connection.request("GET", _path(job_id, "generations"), params=params)["generations"]
        )

    def candidates(
        self,
        job_id: str,
        *,
        limit: int = 100,
        after: int | None = None,
        generation: int | None = None,
        pareto: bool = False,
        fields: Iterable[str] = (),
    ) -> list[dict[str, Any]]:
        """Return scored candidates of a job: all, or those of one generation.

        With `pareto`, only candidates that no smaller one beats. With `fields`, only these fields of each: `genome` and
        `ranks` are long.
        """
        params = _given(
            limit=limit,
            after=after,
            generation=generation,
            pareto=pareto or None,
            fields=list(fields) or None,
        )
        return list(self.connection.request("GET", _path(job_id, "candidates"), params=params)["candidates"])

    def table(self, job_id: str, rows: Literal["candidates", "generations"], path: Path) -> None:
        """Write all candidates or generations of a job to a file.

        Args:
            job_id: The job.
            rows: What the table has a row for.
            path: File to write, or to replace: a `.csv` or a `.parquet`.

        Raises:
            ApiError: No such job.
            InputError: The path has another suffix.
            InfrastructureError: The transfer broke.
        """
        format = table_format(path)
        self.connection.fetch(f"{_path(job_id, rows)}?format={format}", path)

    def ranks(self, job_id: str, *, candidate: int | None = None) -> dict[str, Any]:
        """Return the rank of every matrix of a candidate, or of the exported model."""
        return self.connection.request("GET", _path(job_id, "ranks"), params=_given(candidate=candidate))

    def export(
        self, job_id: str, *, share: float | None = None, candidate: int | None = None
    ) -> dict[str, Any]:
        """Export one more model of a succeeded job.

        Returns the export, a small job with an `id` of its own.

        Args:
            job_id: The job.
            share: Export the best candidate that keeps at most this share of the prunable parameters.
            candidate: Export the candidate with this `id` instead, see `candidates`.

        Raises:
            ApiError: No candidate is small enough, or the job has not succeeded.
        """
        return self.connection.request(
            "POST", _path(job_id, "exports"), json=_given(share=share, candidate=candidate)
        )

    def exports(self, job_id: str) -> list[dict[str, Any]]:
        """Return the exports of a job, newest first."""
        return list(self.connection.request("GET", _path(job_id, "exports"))["exports"])

    def models(self) -> dict[str, Any]:
        """Return the local `models` that a job could start from.

        `complete` says whether the list has all of them.
        """
        return self.connection.request("GET", "/v1/models")

    def artifacts(self, job_id: str) -> list[dict[str, Any]]:
        """Return the files of the exported model of a job or an export."""
        return list(self.connection.request("GET", _path(job_id, "artifacts"))["artifacts"])

    def download(self, job_id: str, directory: Path) -> list[Path]:
        """Download the exported model of a job or an export, and return its files.

        Raises:
            ApiError: No such job.
            NotFoundError: The job has no exported model.
            InputError: The folder holds files of another model.
            InfrastructureError: The server offered a name outside the folder, or a transfer broke.
        """
        names = [str(artifact["name"]) for artifact in self.artifacts(job_id)]
        if not names:
            raise NotFoundError(f"job {job_id} is {self.job(job_id)['state']}; it has no exported model")
        targets = [inside(directory, name) for name in names]
        refuse_others(targets)
        for name, target in zip(names, targets, strict=True):
            self.connection.fetch(_path(job_id, "artifacts", *PurePosixPath(name).parts), target)
        return targets


def _path(job_id: str, *parts: str) -> str:
    return "/v1/jobs/" + "/".join(quote(part, safe="") for part in (job_id, *parts))


def _given(**params: object) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}
