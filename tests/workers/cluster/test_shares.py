"""The book of who holds which part of a cluster, kept by several threads."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest

from ranksieve.search.errors import CancelledError, NoRoomError
from ranksieve.workers.cluster import shares
from ranksieve.workers.cluster.packing import amounts
from ranksieve.workers.cluster.shares import Share, Sharing

EVERYTHING = float("inf")


def ones(count: int) -> dict[str, dict[str, int]]:
    """Nodes of one processor each."""
    return {f"node {index}": amounts(CPU=1) for index in range(count)}


def give_back(share: Share) -> None:
    """Ends the youngest actor, of a node that has too many if there is one."""
    [*_, place] = [place for place in share._places if share.excess[place.node]] or share._places
    share.give_back(place)


class Cluster:
    """Cluster whose nodes have one processor each."""

    def __init__(self, cpus: int) -> None:
        self.sharing = Sharing()
        self._cpus = cpus

    def enter(self, limit: int = 99, priority: int = 0, **options: Any) -> AbstractContextManager[Share]:
        given = {"cancelled": threading.Event(), **options}
        return self.sharing.enter(
            "a", ones(self._cpus), amounts(CPU=1), limit=limit, priority=priority, **given
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
    assert (share.held, share.take()) == (1, None)  # a phase of one worker
    share.use(2)
    assert fill(share) == 2
    share.use(EVERYTHING)
    assert fill(share) == 3
    share.rest()
    assert (share.held, share.take()) == (1, None)


def test_a_job_that_starts_gets_its_part_when_the_other_one_gives_back(entered: ExitStack) -> None:
    cluster = Cluster(4)
    first = search(entered.enter_context(cluster.enter()))
    second_has: list[int] = []
    ran = threading.Event()

    def run() -> None:
        with cluster.enter() as second:
            search(second)
            second_has.append(second.held)
            give_back(first)
            second_has.append(fill(second))
        ran.set()

    thread = threading.Thread(target=run)
    thread.start()
    with first._changed:
        assert first._changed.wait_for(
            lambda: first.excess.total() == 1, 10
        )  # the other one waits, and can use one
    give_back(first)
    assert ran.wait(60)
    thread.join()

    assert second_has == [1, 2]
    assert first.excess.total() == 0
    assert fill(first) == 4


def test_nobody_takes_what_another_job_still_holds(entered: ExitStack) -> None:
    cluster = Cluster(3)
    first = entered.enter_context(cluster.enter(limit=2))
    second = entered.enter_context(cluster.enter(limit=2))
    search(first)
    search(second)
    assert (first.held, second.held) == (2, 1)
    second.change(limit=2, priority=1)
    assert (first.excess.total(), second.take()) == (1, None)
    give_back(first)
    assert second.take()
    assert not first.take()


def test_its_user_changes_how_much_a_job_has(entered: ExitStack) -> None:
    share = search(entered.enter_context(Cluster(8).enter(limit=2)))
    share.change(limit=5, priority=0)
    assert fill(share) == 5
    share.change(limit=1, priority=0)
    assert share.excess.total() == 4
    for _ in range(9):
        give_back(share)
    assert (share.held, share.excess.total()) == (1, 0)


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
    assert (low.held, low.excess.total()) == (1, 0)


def test_it_is_told_how_many_actors_a_job_has() -> None:
    held_counts: list[int] = []
    with Cluster(2).enter(on_held=held_counts.append) as share:
        search(share)
        give_back(share)
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
                    give_back(share)

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
    nodes = {"a": amounts(CPU=3), "b": amounts(CPU=3)}
    share = entered.enter_context(
        Sharing().enter(
            "a", nodes, amounts(CPU=2), limit=99, priority=0, cancelled=threading.Event()
        )  # six processors, and yet no three actors of two
    )
    assert search(share).held == 2


def test_a_running_job_takes_places_on_nodes_that_join_and_loses_those_on_nodes_that_leave(
    entered: ExitStack,
) -> None:
    cluster, held_counts = Cluster(2), list[int]()
    share = search(entered.enter_context(cluster.enter(on_held=held_counts.append)))
    cluster.sharing.set_nodes(ones(5))
    assert fill(share) == 5
    cluster.sharing.set_nodes(ones(3))
    assert (share.held, share.excess.total(), share.take()) == (3, 0, None)
    assert held_counts[-1] == 3


def test_a_job_whose_last_node_has_gone_has_no_room_until_there_is_another(entered: ExitStack) -> None:
    cluster = Cluster(2)
    share = search(entered.enter_context(cluster.enter()))
    cluster.sharing.set_nodes({"other": {"GPU": 10_000}})
    assert (share.held, share.take()) == (0, None)
    with pytest.raises(NoRoomError, match="has left the cluster"):
        share.require_room()
    cluster.sharing.set_nodes({"new": amounts(CPU=2)})
    share.require_room()
    assert fill(share) == 2


def test_a_job_of_large_actors_gets_a_whole_node_from_one_that_is_spread(entered: ExitStack) -> None:
    sharing, nodes = Sharing(), {name: amounts(CPU=4, GPU=4) for name in ("a", "b")}
    options: Any = {"limit": 99, "priority": 0, "cancelled": threading.Event()}
    small = search(entered.enter_context(sharing.enter("small", nodes, amounts(CPU=1, GPU=1), **options)))
    assert small.held == 8
    began = threading.Event()

    def run() -> None:
        with sharing.enter("large", nodes, amounts(CPU=1, GPU=4), **options) as large:
            assert large.wait(threading.Event()).gpus == (0, 1, 2, 3)
            began.set()

    thread = threading.Thread(target=run)
    thread.start()
    with small._changed:
        assert small._changed.wait_for(lambda: small.excess.total() == 4, 10)
    assert len(small.excess) == 1  # all on one node
    while small.excess:
        assert not began.is_set()
        give_back(small)
    assert began.wait(30)
    thread.join()
    assert small.held == 4


def test_the_user_of_a_job_that_waits_for_long_hears_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "LONG_S", 0.0)
    cluster, cancelled, reasons = Cluster(1), threading.Event(), list[str]()

    def tell(reason: str) -> None:
        reasons.append(reason)
        cancelled.set()

    with cluster.enter(), pytest.raises(CancelledError), cluster.enter(cancelled=cancelled, on_notice=tell):
        raise AssertionError("there is no room")
    assert reasons == ["other jobs hold all nodes that one actor of this job fits on; it waits for them"]


def test_a_job_that_waits_for_its_first_actor_is_told_that_the_nodes_have_gone(entered: ExitStack) -> None:
    cluster = Cluster(1)
    search(entered.enter_context(cluster.enter()))

    class Gone(threading.Event):
        def is_set(self) -> bool:  # looked at once the job waits
            cluster.sharing.set_nodes({"other": {"GPU": 10_000}})
            return False

    with pytest.raises(NoRoomError), cluster.enter(cancelled=Gone()):
        pass
