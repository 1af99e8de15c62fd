"""The sender over a real store and an endpoint that answers as it is told. What needs two backends is the outbox's."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any

import pytest
from standardwebhooks import Webhook as Receiver

from ranksieve.search.errors import StoreError
from ranksieve.service.job.job import JobState, Request
from ranksieve.service.server.metrics import Metrics
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store
from ranksieve.service.webhooks.outcomes import Outcome
from ranksieve.service.webhooks.post import HttpPost
from ranksieve.service.webhooks.sender import ATTEMPTS_AT_ONCE, Sender
from ranksieve.service.webhooks.webhook import ENDS, DeliveryState

MakeSpec = Callable[..., JobSpec]
URL = "https://hooks.example.com/t0ken"


class Endpoint:
    """Keeps what is posted to it; answers `outcomes` in turn, then 200."""

    def __init__(self, *outcomes: Outcome | Exception) -> None:
        self._outcomes = list(outcomes)
        self._changed = threading.Condition()
        self.received: list[tuple[str, dict[str, str], str]] = []
        self.open = threading.Event()
        self.open.set()

    def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        with self._changed:
            self.received.append((url, dict(headers), body.decode()))
            self._changed.notify_all()
        assert self.open.wait(60)
        outcome = self._outcomes.pop(0) if self._outcomes else Outcome(status=200)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def wait_for(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.received) >= count, timeout=20), self.received


class Quick(Random):
    """Makes the waits between attempts next to nothing."""

    def uniform(self, a: float, b: float) -> float:
        return 1e-4


StartSender = Callable[..., Sender]


@pytest.fixture
def start_sender(store: Store) -> Iterator[StartSender]:
    """Starts senders that hear of commits to the store, and stops them at the end."""
    started: list[Sender] = []

    def start(post: Callable[..., Outcome], outbox: Any = store.outbox, **options: Any) -> Sender:
        sender = Sender(outbox, post, rng=Quick(), **options)
        store.base.listener = lambda job_id: [sender.wake() for sender in started] and None
        started.append(sender)
        sender.start()
        return sender

    yield start
    for sender in started:
        sender.stop()


def settled(store: Store, webhook_id: str) -> list[DeliveryState]:
    return [one.state for one in store.webhooks.deliveries(webhook_id)]


def test_a_job_that_ends_is_told_of_with_a_signature(
    store: Store, make_spec: MakeSpec, start_sender: StartSender
) -> None:
    _, secret = store.webhooks.create("admin", URL, ENDS)
    endpoint = Endpoint()
    start_sender(endpoint)
    job = store.submissions.create_job(make_spec())

    store.user_requests.ask(job.id, Request.CANCEL)
    endpoint.wait_for(1)

    [(url, headers, body)] = endpoint.received
    assert url == URL
    event = Receiver(secret).verify(body, headers)
    assert (event["type"], event["data"]["id"]) == ("job.cancelled", job.id)


def test_a_delivery_reaches_a_real_receiver_on_this_machine(
    store: Store, make_spec: MakeSpec, start_sender: StartSender
) -> None:
    verified: list[dict[str, Any]] = []
    arrived = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            verified.append(Receiver(secret).verify(body, dict(self.headers)))
            self.send_response(204)
            self.end_headers()
            arrived.set()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}/hook"
        webhook, secret = store.webhooks.create("admin", url, [JobState.QUEUED])
        sender = start_sender(HttpPost(["127.0.0.1"]))
        job = store.submissions.create_job(make_spec())
        assert arrived.wait(20)
        sender.stop()
        server.shutdown()

    assert [event["data"]["id"] for event in verified] == [job.id]
    assert settled(store, webhook.id) == [DeliveryState.DELIVERED]


def test_what_an_earlier_server_left_is_sent_at_the_start(
    store: Store, make_spec: MakeSpec, start_sender: StartSender
) -> None:
    webhook, _ = store.webhooks.create("admin", URL, [JobState.QUEUED])
    job = store.submissions.create_job(make_spec())  # committed, and then nobody was left to send it
    endpoint = Endpoint()

    sender = start_sender(endpoint)
    endpoint.wait_for(1)
    sender.stop()

    [(_, headers, body)] = endpoint.received
    assert json.loads(body)["data"]["id"] == job.id
    [delivery] = store.webhooks.deliveries(webhook.id)
    assert (delivery.id, delivery.state) == (headers["webhook-id"], DeliveryState.DELIVERED)


def test_an_attempt_is_repeated_under_its_id_until_it_arrives(
    store: Store, make_spec: MakeSpec, start_sender: StartSender
) -> None:
    webhook, _ = store.webhooks.create("admin", URL, [JobState.QUEUED])
    endpoint = Endpoint(Outcome.answered(503), Outcome(error="cannot connect"), RuntimeError("bug"))
    metrics = Metrics()
    sender = start_sender(endpoint, metrics=metrics)

    store.submissions.create_job(make_spec())
    endpoint.wait_for(4)
    sender.stop()

    assert len({(headers["webhook-id"], body) for _, headers, body in endpoint.received}) == 1
    [delivery] = store.webhooks.deliveries(webhook.id)
    assert (delivery.state, delivery.attempts, delivery.error) == (DeliveryState.DELIVERED, 4, None)
    text = metrics.text().decode()
    assert 'ranksieve_webhook_attempts_total{outcome="retried"} 3.0' in text
    assert 'ranksieve_webhook_attempts_total{outcome="delivered"} 1.0' in text


def test_what_is_gone_is_not_sent_to_again(
    store: Store, make_spec: MakeSpec, start_sender: StartSender
) -> None:
    webhook, _ = store.webhooks.create("admin", URL, [JobState.QUEUED])
    endpoint, metrics = Endpoint(Outcome.answered(410)), Metrics()
    sender = start_sender(endpoint, metrics=metrics)

    store.submissions.create_job(make_spec())
    endpoint.wait_for(1)
    sender.stop()

    assert settled(store, webhook.id) == [DeliveryState.FAILED]
    assert 'ranksieve_webhook_attempts_total{outcome="given_up"} 1.0' in metrics.text().decode()


def test_a_test_is_sent_once_whatever_comes_of_it(store: Store, start_sender: StartSender) -> None:
    webhook, _ = store.webhooks.create("admin", URL, ENDS)
    endpoint = Endpoint(Outcome.answered(500))
    sender = start_sender(endpoint)

    store.webhooks.test(webhook.id)
    sender.wake()
    endpoint.wait_for(1)
    sender.stop()

    assert len(endpoint.received) == 1
    assert settled(store, webhook.id) == [DeliveryState.FAILED]


def test_a_url_that_does_not_answer_holds_up_nobody_else(
    store: Store, make_spec: MakeSpec, start_sender: StartSender
) -> None:
    slow, quick = Endpoint(), Endpoint()
    slow.open.clear()

    def post(url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        return (slow if url.endswith("slow") else quick)(url, headers, body)

    store.webhooks.create("admin", "https://hooks.example.com/slow", [JobState.QUEUED])
    store.webhooks.create("admin", URL, [JobState.QUEUED])
    start_sender(post)
    for _ in range(5):
        store.submissions.create_job(make_spec())

    quick.wait_for(5)
    assert len(slow.received) == 1
    slow.open.set()
    slow.wait_for(5)


def test_no_more_attempts_are_made_at_once_than_there_is_room_for(
    store: Store, make_spec: MakeSpec, start_sender: StartSender
) -> None:
    endpoint = Endpoint()
    endpoint.open.clear()
    for _ in range(ATTEMPTS_AT_ONCE + 2):
        store.webhooks.create("admin", URL, [JobState.QUEUED])
    store.submissions.create_job(make_spec())
    start_sender(endpoint)

    endpoint.wait_for(ATTEMPTS_AT_ONCE)
    assert len(endpoint.received) == ATTEMPTS_AT_ONCE
    endpoint.open.set()
    endpoint.wait_for(ATTEMPTS_AT_ONCE + 2)


class Failing:
    """An outbox whose database fails for a while."""

    def __init__(self, store: Store, failures: int) -> None:
        self._outbox = store.outbox
        self._failures = failures

    def next_in_s(self) -> float | None:
        self._failures -= 1
        if self._failures >= 0:
            raise StoreError("connection refused")
        return self._outbox.next_in_s()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._outbox, name)


def test_a_failed_database_is_waited_for(
    store: Store, make_spec: MakeSpec, start_sender: StartSender, caplog: pytest.LogCaptureFixture
) -> None:
    store.webhooks.create("admin", URL, [JobState.QUEUED])
    store.submissions.create_job(make_spec())
    endpoint = Endpoint()

    sender = start_sender(endpoint, Failing(store, 2), look_s=0.05)

    endpoint.wait_for(1)
    assert sender.alive
    assert "webhooks wait until the database is back" in caplog.text


def test_a_fault_of_ours_is_logged(
    store: Store,
    make_spec: MakeSpec,
    start_sender: StartSender,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a fault of ours")

    store.webhooks.create("admin", URL, [JobState.QUEUED])
    store.submissions.create_job(make_spec())
    endpoint = Endpoint()
    monkeypatch.setattr(Sender, "_keep", fail)

    sender = start_sender(endpoint)
    endpoint.wait_for(1)
    sender.stop()

    assert "its attempt could not be recorded and will be repeated" in caplog.text
    assert "RuntimeError: a fault of ours" in caplog.text


def test_neither_secrets_nor_urls_are_logged(
    store: Store, make_spec: MakeSpec, start_sender: StartSender, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    _, secret = store.webhooks.create("admin", URL, [JobState.QUEUED])
    endpoint = Endpoint(Outcome.answered(500), RuntimeError("bug"))
    sender = start_sender(endpoint)

    store.submissions.create_job(make_spec())
    endpoint.wait_for(3)
    sender.stop()

    assert "attempt 1: answered 500" in caplog.text
    assert secret not in caplog.text
    assert "t0ken" not in caplog.text
