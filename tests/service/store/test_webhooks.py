"""Webhooks in a store; every backend of `store_url` must keep this contract."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from databases import ON_EACH

from ranksieve.search.errors import ConflictError, InputError, LimitError, NotFoundError
from ranksieve.service.job.job import JobState
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store
from ranksieve.service.webhooks.webhook import ENDS, TEST, DeliveryState

URL = "https://hooks.example.com/"
HOUR = timedelta(hours=1)


@ON_EACH
def test_a_webhook_is_made_with_a_secret_that_is_not_shown_again(store: Store) -> None:
    webhook, secret = store.webhooks.create("alice", URL, [JobState.FAILED, JobState.FAILED])

    assert store.webhooks.get(webhook.id) == webhook
    assert (webhook.owner, webhook.url, webhook.states, webhook.enabled) == (
        "alice",
        URL,
        (JobState.FAILED,),
        True,
    )
    assert (webhook.disabled_reason, webhook.delivered_at) == (None, None)
    assert secret.startswith("whsec_")
    assert secret not in repr(store.webhooks.all())


def test_one_owner_s_webhooks_are_not_there_for_another(store: Store) -> None:
    hers, _ = store.webhooks.create("alice", URL, ENDS)
    his, _ = store.webhooks.create("bob", URL, ENDS)
    bob = store.seen_by("bob").webhooks

    assert [one.id for one in bob.all()] == [his.id]
    assert [one.id for one in store.webhooks.all()] == [hers.id, his.id]
    attempts: list[Callable[[str], object]] = [
        bob.get, bob.delete, bob.test, bob.rotate, bob.deliveries, lambda id: bob.change(id, enabled=False)
    ]  # fmt: skip
    for attempt in attempts:
        for id in (hers.id, "0" * 24, "no\0id"):
            with pytest.raises(NotFoundError, match="there is no webhook"):
                attempt(id)
    assert store.webhooks.get(hers.id) == hers


def test_an_owner_has_so_many_and_no_more(store: Store) -> None:
    for _ in range(2):
        first, _ = store.webhooks.create("alice", URL, ENDS, most=2)

    with pytest.raises(LimitError, match="alice has 2 webhooks"):
        store.webhooks.create("alice", URL, ENDS, most=2)
    store.webhooks.create("bob", URL, ENDS, most=2)
    store.webhooks.delete(first.id)
    store.webhooks.create("alice", URL, ENDS, most=2)


def test_what_is_given_changes_and_nothing_else(store: Store) -> None:
    webhook, _ = store.webhooks.create("alice", URL, ENDS)

    changed = store.webhooks.change(webhook.id, states=[JobState.PAUSED], enabled=False)

    assert (changed.url, changed.states, changed.enabled) == (URL, (JobState.PAUSED,), False)
    assert store.webhooks.change(webhook.id, url=URL + "x").states == (JobState.PAUSED,)
    assert store.webhooks.get(webhook.id).url == URL + "x"


@ON_EACH
def test_a_secret_is_replaced_at_once_or_after_a_while(store: Store) -> None:
    webhook, first = store.webhooks.create("alice", URL, ENDS)
    store.webhooks.test(webhook.id)

    _, second = store.webhooks.rotate(webhook.id, HOUR)
    sending = store.outbox.claim(lease_s=0)
    assert sending is not None
    assert sending.secrets == (second, first)

    _, third = store.webhooks.rotate(webhook.id)
    sending = store.outbox.claim(lease_s=0)
    assert sending is not None
    assert sending.secrets == (third,)


def test_a_test_waits_once_and_only_for_an_enabled_webhook(store: Store) -> None:
    webhook, _ = store.webhooks.create("alice", URL, ENDS)

    delivery = store.webhooks.test(webhook.id)

    assert (delivery.type, delivery.job_id, delivery.state) == (TEST, None, DeliveryState.PENDING)
    assert store.webhooks.test(webhook.id) == delivery
    assert store.webhooks.deliveries(webhook.id) == [delivery]
    store.webhooks.change(webhook.id, enabled=False)
    with pytest.raises(ConflictError, match="disabled"):
        store.webhooks.test(webhook.id)


@ON_EACH
def test_deliveries_are_listed_newest_first_in_pages(store: Store, make_spec: Callable[..., JobSpec]) -> None:
    webhook, _ = store.webhooks.create("alice", URL, [JobState.QUEUED])
    jobs = [store.submissions.create_job(make_spec(), "alice").id for _ in range(5)]

    first = store.webhooks.deliveries(webhook.id, limit=3)
    second = store.webhooks.deliveries(webhook.id, limit=3, after=first[-1].id)

    assert [one.job_id for one in first + second] == jobs[::-1]
    with pytest.raises(InputError, match="after"):
        store.webhooks.deliveries(webhook.id, after="\0")


@ON_EACH
def test_with_a_webhook_go_its_deliveries(store: Store) -> None:
    webhook, _ = store.webhooks.create("alice", URL, ENDS)
    store.webhooks.test(webhook.id)

    store.webhooks.delete(webhook.id)

    assert store.outbox.next_in_s() is None
    with pytest.raises(NotFoundError):
        store.webhooks.deliveries(webhook.id)
