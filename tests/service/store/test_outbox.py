"""What waits for webhooks, in a store."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from databases import ON_EACH

from ranksieve.search.errors import ConflictError, SupersededError
from ranksieve.service.job.job import Job, JobState, Request
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store, mapping, outbox
from ranksieve.service.store.outbox import DEAD, GONE
from ranksieve.service.webhooks.outcomes import Outcome
from ranksieve.service.webhooks.sender import Sender
from ranksieve.service.webhooks.webhook import ENDS, Delivery, DeliveryState, Sending, Webhook

MakeSpec = Callable[..., JobSpec]
Advance = Callable[[float], None]

URL = "https://hooks.example.com/"
ARRIVED, FAILED = Outcome(status=200), Outcome(status=500, error="answered 500")


def webhook_of(store: Store, *states: JobState, owner: str = "admin") -> Webhook:
    return store.webhooks.create(owner, URL, states or ENDS)[0]


def waiting(store: Store, webhook: Webhook) -> list[Delivery]:
    return [one for one in store.webhooks.deliveries(webhook.id) if one.state is DeliveryState.PENDING]


def claimed(store: Store, lease_s: float = 60) -> Sending:
    sending = store.outbox.claim(lease_s)
    assert sending is not None
    return sending


def run_to_its_end(store: Store, job: Job) -> None:
    for state in (
        JobState.VALIDATING,
        JobState.PREPARING,
        JobState.SEARCHING,
        JobState.FINALIZING,
        JobState.SUCCEEDED,
    ):
        store.runs.transition(job.id, state, epoch=job.epoch)


@ON_EACH
def test_only_wanted_states_of_the_owner_s_jobs_are_told(timed: Store, make_spec: MakeSpec) -> None:
    ends = webhook_of(timed, owner="alice")
    all_of_them = webhook_of(timed, *JobState, owner="alice")
    foreign, disabled = webhook_of(timed, owner="bob"), webhook_of(timed, owner="alice")
    timed.webhooks.change(disabled.id, enabled=False)

    job = timed.submissions.create_job(make_spec(), "alice")
    run_to_its_end(timed, job)

    sent = [one.type for one in reversed(timed.webhooks.deliveries(all_of_them.id))]
    assert sent == [
        "job.queued",
        "job.validating",
        "job.preparing",
        "job.searching",
        "job.finalizing",
        "job.succeeded",
    ]
    assert [(one.type, one.job_id) for one in waiting(timed, ends)] == [("job.succeeded", job.id)]
    assert waiting(timed, foreign) == waiting(timed, disabled) == []


def test_every_way_to_a_state_tells_of_it(timed: Store, make_spec: MakeSpec) -> None:
    webhook = webhook_of(timed, *JobState)
    job = timed.submissions.create_job(make_spec())
    for request in (Request.PAUSE, Request.RESUME, Request.CANCEL):
        timed.user_requests.ask(job.id, request)
    timed.submissions.create_job(make_spec())
    claimed_job = timed.claims.claim_next()
    assert claimed_job is not None

    sent = [one.type for one in reversed(timed.webhooks.deliveries(webhook.id))]

    assert sent == [
        "job.queued", "job.paused", "job.queued", "job.cancelled", "job.queued", "job.validating"
    ]  # fmt: skip


def test_a_move_that_is_refused_tells_nothing(timed: Store, make_spec: MakeSpec) -> None:
    webhook = webhook_of(timed, JobState.SUCCEEDED, JobState.VALIDATING)
    job = timed.submissions.create_job(make_spec())

    with pytest.raises(ConflictError):
        timed.runs.transition(job.id, JobState.SUCCEEDED, epoch=job.epoch)
    with pytest.raises(SupersededError):
        timed.runs.transition(job.id, JobState.VALIDATING, epoch=job.epoch + 1)

    assert waiting(timed, webhook) == []


def test_a_delivery_and_its_move_are_committed_together(
    timed: Store, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    webhook = webhook_of(timed, JobState.VALIDATING)
    job = timed.submissions.create_job(make_spec())
    monkeypatch.setattr(mapping, "job_of", lambda row: 1 / 0)  # after both were written, before the commit

    with pytest.raises(ZeroDivisionError):
        timed.runs.transition(job.id, JobState.VALIDATING, epoch=job.epoch)
    monkeypatch.undo()

    assert timed.job(job.id).state is JobState.QUEUED
    assert waiting(timed, webhook) == []


def test_what_was_committed_before_a_crash_is_sent_by_the_next_server(
    timed: Store, other: Store, make_spec: MakeSpec
) -> None:
    webhook = webhook_of(timed, JobState.QUEUED)
    job = timed.submissions.create_job(make_spec())
    timed.close()  # it died before it told anybody

    sending = claimed(other)
    assert f'"id":"{job.id}"' in sending.payload
    assert other.outbox.settle(sending, ARRIVED, None) is DeliveryState.DELIVERED
    assert other.outbox.claim(60) is None
    assert other.webhooks.get(webhook.id).delivered_at is not None


@ON_EACH
def test_what_a_server_was_sending_when_it_died_is_sent_again_under_the_same_id(
    timed: Store, other: Store, make_spec: MakeSpec, advance: Advance
) -> None:
    webhook_of(timed, JobState.QUEUED)
    timed.submissions.create_job(make_spec())
    lost = claimed(timed, lease_s=60)

    assert other.outbox.claim(60) is None
    wait = other.outbox.next_in_s()
    assert wait is not None
    assert 50 < wait <= 60
    advance(61)

    again = claimed(other)
    assert (again.id, again.payload, again.attempt) == (lost.id, lost.payload, 2)
    assert timed.outbox.settle(lost, FAILED, 5) is None  # it was only slow, and is too late
    assert other.outbox.settle(again, ARRIVED, None) is DeliveryState.DELIVERED
    assert timed.outbox.settle(lost, FAILED, 5) is None


def test_the_next_server_on_a_file_need_not_wait_for_leases(timed: Store, make_spec: MakeSpec) -> None:
    webhook_of(timed, JobState.QUEUED)
    timed.submissions.create_job(make_spec())
    claimed(timed)

    timed.claims.release_all()

    assert claimed(timed).attempt == 2


@ON_EACH
def test_of_many_that_look_at_once_one_has_a_delivery(
    timed: Store, other: Store, make_spec: MakeSpec
) -> None:
    for owner in ("a", "b", "c"):
        webhook_of(timed, JobState.QUEUED, owner=owner)
        timed.submissions.create_job(make_spec(), owner)
    together = threading.Barrier(8)

    def claim(store: Store) -> list[str]:
        together.wait(timeout=60)
        found = (store.outbox.claim(60) for _ in range(3))
        return [one.id for one in found if one is not None]

    with ThreadPoolExecutor(8) as pool:
        ids = [id for some in pool.map(claim, [timed, other] * 4) for id in some]

    assert len(ids) == len(set(ids)) == 3


@ON_EACH
def test_senders_of_two_servers_send_each_delivery_once(
    timed: Store, other: Store, make_spec: MakeSpec
) -> None:
    received: list[str] = []
    complete = threading.Event()

    def post(url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        received.append(headers["webhook-id"])
        if len(received) >= 9:
            complete.set()
        return ARRIVED

    for owner in "abc":
        webhook_of(timed, JobState.QUEUED, owner=owner)
    senders = [Sender(store.outbox, post, look_s=0.1) for store in (timed, other)]
    for sender in senders:
        sender.start()
    for owner in "abc" * 3:
        timed.submissions.create_job(make_spec(), owner)
    assert complete.wait(20)
    for sender in senders:
        sender.stop()

    assert timed.outbox.next_in_s() is None
    assert len(received) == len(set(received)) == 9


@ON_EACH
def test_webhooks_take_turns_and_each_has_one_attempt_at_a_time(timed: Store, make_spec: MakeSpec) -> None:
    busy, quiet = webhook_of(timed, JobState.QUEUED, owner="a"), webhook_of(timed, JobState.QUEUED, owner="b")
    for owner in ("a", "a", "a", "b"):
        timed.submissions.create_job(make_spec(), owner)

    first, second = claimed(timed), claimed(timed)
    assert [first.webhook_id, second.webhook_id] == [busy.id, quiet.id]
    assert timed.outbox.claim(60) is None
    timed.outbox.settle(first, ARRIVED, None)
    assert claimed(timed).webhook_id == busy.id


@ON_EACH
def test_an_attempt_in_vain_is_followed_by_another_when_it_is_time(
    timed: Store, make_spec: MakeSpec, advance: Advance
) -> None:
    webhook = webhook_of(timed, JobState.QUEUED)
    timed.submissions.create_job(make_spec())

    assert timed.outbox.settle(claimed(timed), FAILED, 20) is DeliveryState.PENDING

    [delivery] = waiting(timed, webhook)
    assert (delivery.attempts, delivery.status, delivery.error) == (1, 500, "answered 500")
    assert timed.outbox.claim(60) is None
    wait = timed.outbox.next_in_s()
    assert wait is not None
    assert 15 < wait <= 20
    advance(21)
    assert claimed(timed).attempt == 2


def test_what_is_given_up_keeps_its_reason_and_the_webhook_goes_on(timed: Store, make_spec: MakeSpec) -> None:
    webhook = webhook_of(timed, JobState.QUEUED)
    timed.submissions.create_job(make_spec())

    last = Outcome(error="resolves to no address")
    assert timed.outbox.settle(claimed(timed), last, None) is DeliveryState.FAILED

    [delivery] = timed.webhooks.deliveries(webhook.id)
    assert (delivery.state, delivery.error, delivery.due_at) == (DeliveryState.FAILED, last.error, None)
    assert delivery.finished_at is not None
    assert timed.webhooks.get(webhook.id).enabled


def test_a_url_that_is_gone_is_not_sent_to_until_it_is_enabled_again(
    timed: Store, make_spec: MakeSpec
) -> None:
    webhook = webhook_of(timed, JobState.QUEUED)
    for _ in range(2):
        timed.submissions.create_job(make_spec())

    timed.outbox.settle(claimed(timed), Outcome.answered(410), retry_s=5)

    found = timed.webhooks.get(webhook.id)
    assert (found.enabled, found.disabled_reason) == (False, GONE)
    assert timed.outbox.claim(60) is None
    assert timed.outbox.next_in_s() is None
    timed.submissions.create_job(make_spec())
    assert len(waiting(timed, webhook)) == 1

    assert timed.webhooks.change(webhook.id, enabled=True).disabled_reason is None
    assert timed.outbox.settle(claimed(timed), ARRIVED, None) is DeliveryState.DELIVERED


def test_a_url_that_is_gone_says_nothing_of_the_one_that_has_come_for_it(
    timed: Store, make_spec: MakeSpec
) -> None:
    webhook = webhook_of(timed, JobState.QUEUED)
    timed.submissions.create_job(make_spec())
    sending = claimed(timed)
    timed.webhooks.change(webhook.id, url="https://hooks.example.com/new")

    state = timed.outbox.settle(sending, Outcome.answered(410), retry_s=None)

    assert state is DeliveryState.PENDING
    assert timed.webhooks.get(webhook.id).enabled
    assert claimed(timed).url == "https://hooks.example.com/new"


@pytest.mark.parametrize("something_arrives", [False, True])
def test_a_url_that_takes_nothing_for_long_is_disabled(
    timed: Store,
    make_spec: MakeSpec,
    advance: Advance,
    something_arrives: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outbox, "ATTEMPTS", 3)
    webhook = webhook_of(timed, JobState.QUEUED)
    timed.submissions.create_job(make_spec())
    for attempt in (1, 2, 3):
        sending = claimed(timed)
        assert sending.attempt == attempt
        timed.outbox.settle(sending, FAILED, 10 if attempt < 3 else None)
        if something_arrives and attempt == 2:
            timed.submissions.create_job(make_spec())
            timed.outbox.settle(claimed(timed), ARRIVED, None)
        advance(11)

    found = timed.webhooks.get(webhook.id)
    assert found.enabled == something_arrives
    assert found.disabled_reason == (None if something_arrives else DEAD)


@ON_EACH
def test_deliveries_outlive_their_job_and_its_events(
    timed: Store, make_spec: MakeSpec, advance: Advance
) -> None:
    webhook = webhook_of(timed, JobState.CANCELLED)
    jobs = [timed.submissions.create_job(make_spec()) for _ in range(2)]
    for job in jobs:
        timed.user_requests.ask(job.id, Request.CANCEL)
    timed.submissions.delete_job(jobs[0].id)
    advance(86_400)
    assert timed.cleanup.forget_events(timedelta(hours=1)) == 2
    assert timed.outbox.forget(timedelta(hours=1)) == 0  # nothing of what waits goes

    for job in jobs:
        sending = claimed(timed)
        assert f'"id":"{job.id}"' in sending.payload
        timed.outbox.settle(sending, ARRIVED, None)

    assert timed.outbox.forget(timedelta(hours=1)) == 0
    advance(3601)
    assert timed.outbox.forget(timedelta(hours=1)) == 2
    assert timed.webhooks.deliveries(webhook.id) == []


@ON_EACH
def test_a_former_secret_is_forgotten_when_its_time_is_over(timed: Store, advance: Advance) -> None:
    webhook = webhook_of(timed)
    _, new = timed.webhooks.rotate(webhook.id, timedelta(hours=1))
    timed.webhooks.test(webhook.id)
    assert len(claimed(timed, lease_s=0).secrets) == 2

    advance(3601)

    assert claimed(timed).secrets == (new,)


@ON_EACH
def test_a_webhook_that_is_deleted_while_a_job_moves_makes_neither_fail(
    timed: Store, other: Store, make_spec: MakeSpec
) -> None:
    jobs = [timed.submissions.create_job(make_spec()) for _ in range(8)]
    webhooks = [webhook_of(timed, JobState.CANCELLED) for _ in range(8)]
    together = threading.Barrier(2)

    def delete() -> None:
        together.wait(timeout=60)
        for webhook in webhooks:
            other.webhooks.delete(webhook.id)

    def cancel() -> None:
        together.wait(timeout=60)
        for job in jobs:
            timed.user_requests.ask(job.id, Request.CANCEL)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(delete), pool.submit(cancel)]:
            done.result()

    assert timed.webhooks.all() == []
    assert timed.outbox.next_in_s() is None
    assert {timed.job(job.id).state for job in jobs} == {JobState.CANCELLED}
