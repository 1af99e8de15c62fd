"""What webhooks are sent, against the standard's own library and its own example."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook as Receiver
from standardwebhooks import WebhookVerificationError

from ranksieve.service.job.events import Event, EventType
from ranksieve.service.job.export import Export
from ranksieve.service.job.job import Job, JobError, JobState
from ranksieve.service.spec import JobSpec
from ranksieve.service.webhooks.messages import job_message, signed_headers, trial_message
from ranksieve.service.webhooks.webhook import Sending, Webhook, new_secret

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_job_is_told_of_without_its_spec_and_result(make_spec: Callable[..., JobSpec]) -> None:
    spec = make_spec("reviews", team="nlp")
    labels = spec.labels | {"note": "x" * 201}
    job = Job(
        id="j1", owner="alice", name=spec.name, labels=labels, spec=spec, state=JobState.FAILED,
        cancel_requested=False, created_at=NOW, finished_at=NOW, error=JobError(code="input", message="no"),
    )  # fmt: skip
    event = Event(job_id=job.id, seq=7, type=EventType.JOB_STATE, at=NOW, data={"state": "failed"})

    message = job_message(job, event)

    payload = json.loads(message.payload)
    assert (payload["type"], message.type, message.job_id) == ("job.failed", "job.failed", job.id)
    assert datetime.fromisoformat(payload["timestamp"]) == NOW
    assert payload["timestamp"].endswith("Z")
    data = payload["data"]
    assert (data["id"], data["seq"], data["owner"], data["state"]) == (job.id, 7, "alice", JobState.FAILED)
    assert (data["name"], data["labels"], data["parent"]) == ("reviews", {"team": "nlp"}, None)
    assert (data["started_at"], data["error"]) == (None, {"code": "input", "message": "no"})
    assert not {"spec", "result"} & set(data)


def test_the_standards_example_is_signed_as_it_says() -> None:
    secret, id = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek"
    at = datetime.fromtimestamp(1614265330, UTC)

    headers = signed_headers(id, '{"test": 2432232314}', [secret], at)

    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert (headers["webhook-id"], headers["webhook-timestamp"]) == (id, "1614265330")


def test_a_receiver_accepts_either_secret_while_both_are_good_and_nothing_else() -> None:
    new, former = new_secret(), new_secret()
    payload = trial_message("w1", NOW).payload
    headers = signed_headers("m1", payload, [new, former], datetime.now(UTC))

    for secret in (new, former):
        assert Receiver(secret).verify(payload, headers)["type"] == "webhook.test"
    for wrong_secret, wrong_payload in ((new_secret(), payload), (new, payload.replace("w1", "w2"))):
        with pytest.raises(WebhookVerificationError):
            Receiver(wrong_secret).verify(wrong_payload, headers)


def test_secrets_and_urls_are_not_shown_where_values_are_logged() -> None:
    secret, url = new_secret(), "https://hooks.example.com/t0ken"
    sending = Sending(id="d", webhook_id="w", type="t", payload="{}", url=url, secrets=(secret,), attempt=1)
    webhook = Webhook(
        id="w", owner="o", url=url, states=(), enabled=True, disabled_reason=None, created_at=NOW, delivered_at=None
    )  # fmt: skip

    assert secret.startswith("whsec_")
    assert secret not in repr(sending)
    assert "t0ken" not in repr(sending) + repr(webhook)


def test_an_export_is_told_of_with_the_job_it_comes_from_and_no_label_too_long(make_spec) -> None:
    spec = make_spec("reviews")
    labels = {"team": "nlp", "x" * 201: "long name", "note": "x" * 201, "y" * 200: "z" * 200}
    export = Export(job="j1", asked={"share": 0.4}, candidate={}, finalist=None, known={})
    job = Job(
        id="e1", owner="alice", name=spec.name, labels=labels, spec=spec, state=JobState.SUCCEEDED,
        cancel_requested=False, created_at=NOW, finished_at=NOW, export=export,
    )  # fmt: skip
    event = Event(job_id=job.id, seq=7, type=EventType.JOB_STATE, at=NOW, data={"state": "succeeded"})

    data = json.loads(job_message(job, event).payload)["data"]

    assert (data["id"], data["parent"]) == ("e1", "j1")
    assert data["labels"] == {"team": "nlp", "y" * 200: "z" * 200}
