import asyncio
import threading

import pytest

from ranksieve.service.run.feed import Feed

SOON_S = 5.0
NEVER_S = 0.01


def from_a_thread(feed: Feed, job_id: str) -> None:
    thread = threading.Thread(target=feed.notify, args=(job_id,))
    thread.start()
    thread.join()


def test_a_waiting_reader_is_woken_by_another_thread() -> None:
    async def read() -> bool:
        feed = Feed()
        async with feed.subscribe("j1") as subscription:
            waiting = asyncio.create_task(subscription.wait(SOON_S))
            await asyncio.sleep(0)
            from_a_thread(feed, "j1")
            return await waiting

    assert asyncio.run(read())


def test_news_between_subscribing_and_waiting_is_not_lost() -> None:
    async def read() -> bool:
        feed = Feed()
        async with feed.subscribe("j1") as subscription:
            from_a_thread(feed, "j1")
            return await subscription.wait(SOON_S)

    assert asyncio.run(read())


def test_a_wait_takes_the_news() -> None:
    async def read() -> list[bool]:
        feed = Feed()
        async with feed.subscribe("j1") as subscription:
            for _ in range(3):
                from_a_thread(feed, "j1")
            return [await subscription.wait(SOON_S), await subscription.wait(NEVER_S)]

    assert asyncio.run(read()) == [True, False]


def test_only_readers_of_that_job_are_woken() -> None:
    async def read() -> list[bool]:
        feed = Feed()
        async with (
            feed.subscribe("j1") as first,
            feed.subscribe("j1") as second,
            feed.subscribe("j2") as other,
        ):
            from_a_thread(feed, "j1")
            return list(await asyncio.gather(first.wait(SOON_S), second.wait(SOON_S), other.wait(NEVER_S)))

    assert asyncio.run(read()) == [True, True, False]


def test_no_wake_up_is_lost_under_a_busy_writer() -> None:
    """The reader follows a counter that a thread raises 500 times, and sees its last value."""
    feed, counter = Feed(), 0

    def count() -> None:
        nonlocal counter
        for _ in range(500):
            counter += 1
            feed.notify("j1")

    async def read() -> int:
        async with feed.subscribe("j1") as subscription:
            writer = threading.Thread(target=count)
            writer.start()
            while (seen := counter) < 500:
                assert await subscription.wait(SOON_S), f"no wake-up after {seen}"
            writer.join()
            return seen

    assert asyncio.run(read()) == 500


def test_a_reader_that_left_is_forgotten() -> None:
    feed = Feed()

    async def leave() -> None:
        async with feed.subscribe("j1"):
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        asyncio.run(leave())

    assert not feed._subscriptions
    feed.notify("j1")


def test_a_loop_that_closed_does_not_disturb_the_writer() -> None:
    feed = Feed()
    loop = asyncio.new_event_loop()
    subscribing = feed.subscribe("j1")
    loop.run_until_complete(subscribing.__aenter__())
    loop.close()

    feed.notify("j1")


def test_readers_that_know_the_same_news_are_at_one_edition() -> None:
    async def read() -> list[tuple[int, int]]:
        feed, editions = Feed(), []
        async with (
            feed.subscribe("j1") as first,
            feed.subscribe("j1") as second,
            feed.subscribe("j2") as other,
        ):
            for job_id in ("j1", "j1", "j2"):
                from_a_thread(feed, job_id)
                editions.append((first.edition, second.edition))
            assert other.edition > first.edition
        return editions

    before, after, unconcerned = asyncio.run(read())

    assert before[0] == before[1] < after[0] == after[1]
    assert unconcerned == after


def test_a_reader_that_comes_after_news_is_at_their_edition() -> None:
    """It would be given a page that was read before them, and wait for the next ones."""

    async def read() -> tuple[int, int, int]:
        feed = Feed()
        async with feed.subscribe("j1") as early:
            before = early.edition
            from_a_thread(feed, "j1")
            async with feed.subscribe("j1") as late:
                return before, early.edition, late.edition

    before, early, late = asyncio.run(read())
    assert late == early != before
