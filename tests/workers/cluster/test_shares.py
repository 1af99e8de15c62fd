"""The book of who holds which part of a cluster, kept by several threads."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest

from ranksieve.search.errors import CancelledError, NoRoomError
from ranksieve.workers.cluster.fairness import amounts
from ranksieve.workers.cluster.shares import Share, Sharing

EVERYTHING = float("inf")


class Cluster:
    """Cluster whose nodes have one processor each."""

    def __init__(self, cpus: int) -> None:
        self.sharing = Sharing()
        self._cpus = cpus

    def enter(self, limit: int = 99, priority: int = 0, **options: Any) -> AbstractContextManager[Share]:
        given = {"cancelled": threading.Event(), **options}
        return self.sharing.enter(
            "a", [amounts(CPU=1)] * self._cpus, amounts(CPU=1), limit=limit, priority=priority, **given
        )


@pytest.fixture
def entered() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def fill(share: Share) -> int:
    """Takes all that is to be had."""
    while share.take():
        pass
    return share.held


def search(share: Share) -> Share:
    share.use(EVERYTHING)
    fill(share)
    return share


def test_a_job_alone_has_what_it_wants_in_a_phase_that_can_use_it(entered: ExitStack) -> None:
    share = entered.enter_context(Cluster(4).enter(limit=3))
    assert (share.held, share.take()) == (1, False)  # a phase of one worker
    share.use(2)
    assert fill(share) == 2
    share.use(EVERYTHING)
    assert fill(share) == 3
    share.rest()
    assert (share.held, share.take()) == (1, False)


def test_a_job_that_starts_gets_its_part_when_the_other_one_gives_back(entered: ExitStack) -> None:
    cluster = Cluster(4)
    first = search(entered.enter_context(cluster.enter()))
    second_has: list[int] = []
    ran = threading.Event()

    def run() -> None:
        with cluster.enter() as second:
            search(second)
            second_has.append(second.held)
            first.give_back()
            second_has.append(fill(second))
        ran.set()

    thread = threading.Thread(target=run)
    thread.start()
    with first._changed:
        assert first._changed.wait_for(lambda: first.excess == 1, 10)  # the other one waits, and can use one
    first.give_back()
    assert ran.wait(60)
    thread.join()

    assert second_has == [1, 2]
    assert first.excess == 0
    assert fill(first) == 4


def test_nobody_takes_what_another_job_still_holds(entered: ExitStack) -> None:
    cluster = Cluster(3)
    first = entered.enter_context(cluster.enter(limit=2))
    second = entered.enter_context(cluster.enter(limit=2))
    search(first)
    search(second)
    assert (first.held, second.held) == (2, 1)
    second.change(limit=2, priority=1)
    assert (first.excess, second.take()) == (1, False)
    first.give_back()
    assert second.take()
    assert not first.take()


def test_its_user_changes_how_much_a_job_has(entered: ExitStack) -> None:
    share = search(entered.enter_context(Cluster(8).enter(limit=2)))
    share.change(limit=5, priority=0)
    assert fill(share) == 5
    share.change(limit=1, priority=0)
    assert share.excess == 4
    for _ in range(9):
        share.give_back()
    assert (share.held, share.excess) == (1, 0)


def test_a_job_that_waits_for_room_hears_that_it_is_cancelled(entered: ExitStack) -> None:
    cluster = Cluster(1)
    entered.enter_context(cluster.enter())
    cancelled = threading.Event()
    threading.Timer(0.05, cancelled.set).start()
    with pytest.raises(CancelledError), cluster.enter(cancelled=cancelled):
        raise AssertionError("there is no room")


def test_a_running_job_keeps_one_actor_whoever_comes(entered: ExitStack) -> None:
    cluster = Cluster(1)
    low = search(entered.enter_context(cluster.enter(priority=-1)))
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(CancelledError), cluster.enter(priority=1, cancelled=cancelled):
        raise AssertionError("there is no room")
    assert (low.held, low.excess) == (1, 0)


def test_it_is_told_how_many_actors_a_job_has() -> None:
    held_counts: list[int] = []
    with Cluster(2).enter(on_held=held_counts.append) as share:
        search(share)
        share.give_back()
    assert held_counts == [1, 2, 1, 0]


def test_many_threads_never_hold_more_than_there_is() -> None:
    cluster, has, sums = Cluster(3), dict.fromkeys(range(4), 0), []

    def run(index: int) -> None:
        def on_held(held: int) -> None:  # one at a time
            has[index] = held
            sums.append(sum(has.values()))

        for _ in range(30):
            with cluster.enter(on_held=on_held) as share:
                search(share)
                while share.excess:
                    share.give_back()

    threads = [threading.Thread(target=run, args=(index,)) for index in has]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert max(sums) == 3
    assert sums[-1] == 0


def test_of_jobs_that_wait_for_their_first_actor_the_one_of_higher_priority_gets_it() -> None:
    cluster, began = Cluster(1), []
    waiting = {priority: threading.Event() for priority in (0, 1)}

    def run(priority: int) -> None:
        class CountingEvent(threading.Event):
            def is_set(self) -> bool:  # looked at once it waits
                waiting[priority].set()
                return super().is_set()

        with cluster.enter(priority=priority, cancelled=CountingEvent()):
            began.append(priority)

    with cluster.enter():
        threads = []
        for priority in (0, 1):  # the older one first
            threads.append(threading.Thread(target=run, args=(priority,)))
            threads[-1].start()
            assert waiting[priority].wait(30)
    for thread in threads:
        thread.join(30)
    assert began == [1, 0]


def test_what_an_actor_takes_up_counts_and_not_its_size(entered: ExitStack) -> None:
    nodes = [amounts(CPU=3), amounts(CPU=3)]
    share = entered.enter_context(
        Sharing().enter(
            "a", nodes, amounts(CPU=2), limit=99, priority=0, cancelled=threading.Event()
        )  # six processors, and yet no three actors of two
    )
    assert search(share).held == 2


def test_nodes_that_come_and_go_change_what_a_running_job_may_hold(entered: ExitStack) -> None:
    cluster = Cluster(2)
    share = search(entered.enter_context(cluster.enter()))
    assert share.held == 2
    cluster.sharing.set_nodes([amounts(CPU=1)] * 5)
    assert fill(share) == 5
    cluster.sharing.set_nodes([amounts(CPU=1)] * 3)
    assert share.excess == 2


def test_a_job_whose_last_node_has_gone_has_no_room_until_there_is_another(entered: ExitStack) -> None:
    cluster = Cluster(2)
    share = search(entered.enter_context(cluster.enter()))
    cluster.sharing.set_nodes([{"GPU": 10_000}])
    assert (share.excess, share.take()) == (1, False)
    with pytest.raises(NoRoomError, match="has left the cluster"):
        share.require_room()
    share.give_back()
    cluster.sharing.set_nodes([amounts(CPU=2)])
    share.require_room()
    assert fill(share) == 2


def test_a_job_that_waits_for_its_first_actor_is_told_that_the_nodes_have_gone(entered: ExitStack) -> None:
    cluster = Cluster(1)
    search(entered.enter_context(cluster.enter()))

    class Gone(threading.Event):
        def is_set(self) -> bool:  # looked at once the job waits
            cluster.sharing.set_nodes([{"GPU": 10_000}])
            return False

    with pytest.raises(NoRoomError), cluster.enter(cancelled=Gone()):
        pass
