"""What a hostile owner sends to a server, and how it is made."""

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from random import Random
from typing import Any

Document = dict[str, Any]


class Expected(Enum):
    """What a server may do with an input."""

    REFUSED = "4xx"
    CUT_OFF = "4xx, or the connection ends"
    FAILS = "4xx, or a job that fails"


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """What is sent on a connection.

    `parts` are sent `pause_s` apart, on each of `connections` at once.
    """

    kind: str
    name: str
    parts: Sequence[bytes]
    expected: Expected
    pause_s: float = 0.0
    connections: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What hostile owners know, or guess, about a server and the honest owner's job.

    `root` is a folder of the server's roots that they may write to. `job` is a job file that is right.
    """

    host: str
    root: Path
    data_dir: Path
    honest_job: str
    job: Document

    def private_files(self) -> list[str]:
        """Files of the server and of the honest owner."""
        artifacts = self.data_dir / "jobs" / self.honest_job / "artifacts"
        private = [
            self.data_dir / "ranksieve.db",
            artifacts / "model",
            artifacts / "model" / "ranksieve.json",
        ]
        return [*map(str, private), "/etc/passwd", "/proc/self/environ", "/proc/self/mem", "/dev/zero"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """One input to be made.

    `number` tells its files from those of others.
    """

    rng: Random
    target: Target
    key: str
    number: int
    kind: str
    name: str

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """A whole request with the key of the owner; headers of None are left out."""
        named: dict[str, str | None] = {
            "Host": self.target.host,
            "Authorization": f"Bearer {self.key}",
            "Connection": "close",
        }
        if body is not None:
            named |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        lines = [
            f"{name}: {value}" for name, value in (named | dict(headers or {})).items() if value is not None
        ]
        return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode("latin-1") + (body or b"")

    def send(self, *parts: bytes, expected: Expected = Expected.REFUSED, **options: Any) -> Input:
        """The input that sends these bytes."""
        return Input(kind=self.kind, name=self.name, parts=parts, expected=expected, **options)

    def post(self, body: bytes, headers: Mapping[str, str | None] | None = None, **options: Any) -> Input:
        """The input that posts this body as a job file."""
        return self.send(self.request("POST", "/v1/estimates", body, headers), **options)

    def job(self, changes: Mapping[str, Any], **options: Any) -> Input:
        """The input that asks for a dry run of the right job file with some fields changed, by their paths."""
        return self.post(self.written(changes), **options)

    def submit(self, changes: Mapping[str, Any]) -> Input:
        """The input that submits the changed job file, which may be found out while the job runs."""
        body = self.written(changes)
        return self.send(self.request("POST", "/v1/jobs", body), expected=Expected.FAILS)

    def written(self, changes: Mapping[str, Any]) -> bytes:
        """The right job file with some fields changed."""
        document = deepcopy(self.target.job)
        for path, value in changes.items():
            *above, last = path.split(".")
            part = document
            for name in above:
                part = part.setdefault(name, {})
            part[last] = value
        return json.dumps(document).encode()


Make = Callable[[Draw], Input]
