"""Messages to webhooks: JSON of `type`, `timestamp` and `data`, and headers.

The JSON is written once, in the transaction of the event, and stays the same at every attempt. Each attempt is signed
anew.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from standardwebhooks import Webhook as Signer

from ranksieve.service.job.events import Event
from ranksieve.service.job.job import Job
from ranksieve.service.job.redaction import hide_folders
from ranksieve.service.spec import LONGEST_LABEL
from ranksieve.service.webhooks.webhook import TEST


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """Event for webhooks, and its JSON."""

    type: str
    at: datetime
    job_id: str | None
    payload: str


def job_message(job: Job, event: Event) -> Message:
    """Return the message about a job's new state, without its result.

    Labels longer than the limit are left out.
    """
    data = {
        "id": job.id,
        "seq": event.seq,
        "owner": job.owner,
        "parent": None if job.export is None else job.export.job,
        "name": job.name,
        "labels": {
            name: value for name, value in job.labels.items() if max(len(name), len(value)) <= LONGEST_LABEL
        },
        "state": job.state.value,
        "created_at": _text(job.created_at),
        "started_at": _text(job.started_at),
        "finished_at": _text(job.finished_at),
        "error": None if job.error is None else job.error.as_json(),
    }
    return _message(f"job.{job.state.value}", event.at, job.id, data)


def without_folders(payload: str, folders: Iterable[Path]) -> str:
    """Return a message whose error names paths relative to these folders."""
    message = json.loads(payload)
    if (error := message["data"].get("error")) is not None:
        error["message"] = hide_folders(error["message"], folders)
    return _written(message)


def trial_message(webhook_id: str, at: datetime) -> Message:
    """Return a test message."""
    return _message(TEST, at, None, {"webhook_id": webhook_id})


def signed_headers(id: str, payload: str, secrets: Sequence[str], at: datetime) -> dict[str, str]:
    """Return the headers of one attempt.

    Args:
        id: Id of the delivery, the same at every attempt.
        payload: The body.
        secrets: Secrets to sign with; a receiver needs to know one of them.
        at: Now, in UTC.

    Returns:
        `webhook-id`, `webhook-timestamp`, and `webhook-signature` with a signature for every secret.

    Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """
    return {
        "content-type": "application/json",
        "user-agent": "ranksieve",
        "webhook-id": id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(Signer(secret).sign(id, at, payload) for secret in secrets),
    }


def _message(type: str, at: datetime, job_id: str | None, data: dict[str, Any]) -> Message:
    values = {"type": type, "timestamp": _text(at), "data": data}
    return Message(type=type, at=at, job_id=job_id, payload=_written(values))


def _written(values: dict[str, Any]) -> str:
    return json.dumps(values, separators=(",", ":"), allow_nan=False)


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.astimezone(UTC).isoformat().replace("+00:00", "Z")
