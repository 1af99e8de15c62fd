"""Nodes that come and go."""

import threading
from collections.abc import Sequence
from typing import Any

import pytest
import ray

from ranksieve.search.errors import InfrastructureError, NoRoomError
from ranksieve.workers.cluster import autoscaling, nodes
from ranksieve.workers.cluster.autoscaling import Bundle, Wanted
from ranksieve.workers.cluster.nodes import Following, require_room
from ranksieve.workers.cluster.packing import amounts

SMALL = {"CPU": 4.0, "memory": 1e9}


@pytest.fixture
def requests() -> list[list[Bundle]]:
    """What the autoscaler was asked for."""
    return []


@pytest.fixture
def wanted(requests: list[list[Bundle]]) -> Wanted:
    def request(bundles: Sequence[Bundle]) -> None:
        requests.append(list(bundles))

    return Wanted(request)


def test_a_job_that_no_node_has_room_for_says_so_and_asks_for_one(
    wanted: Wanted, requests: list[list[Bundle]]
) -> None:
    with pytest.raises(
        NoRoomError, match="a node with 2 CPU and 1 GPU, but the cluster has nodes with 4 CPU;"
    ):
        require_room("a", 2, 1, {"a": SMALL, "b": SMALL}, wanted)
    with pytest.raises(NoRoomError):
        require_room("b", 8, 0, {"a": SMALL}, wanted)
    assert requests == [[{"CPU": 2, "GPU": 1}], [{"CPU": 2, "GPU": 1}, {"CPU": 8}]]

    require_room("a", 2, 1, {"a": SMALL, "b": {"CPU": 2.0, "GPU": 1.0}}, wanted)

    assert requests[-1] == [{"CPU": 8}]
    with pytest.raises(NoRoomError, match="but the cluster has nodes with no CPU"):
        require_room("c", 1, 0, {"head": {"memory": 1e9}}, wanted)
    with pytest.raises(NoRoomError, match=r"nodes with no CPU; .* Besides, node 1 is not used"):
        require_room("c", 1, 0, {}, wanted, ["node 1 is not used"])


def test_room_for_an_actor_is_on_one_node(wanted: Wanted) -> None:
    with pytest.raises(NoRoomError):
        require_room("a", 4, 1, {"a": SMALL, "b": {"CPU": 1.0, "GPU": 1.0}}, wanted)


def test_a_request_that_is_not_repeated_is_withdrawn(
    wanted: Wanted, requests: list[list[Bundle]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, timers = 0.0, []

    class Timer:
        daemon = False

        def __init__(self, after_s: float, call: Any) -> None:
            timers.append((after_s, call))

        def start(self) -> None: ...

    monkeypatch.setattr(autoscaling.time, "monotonic", lambda: now_s)
    monkeypatch.setattr(autoscaling.threading, "Timer", Timer)
    wanted.ask("a", {"CPU": 8})
    now_s = 30.0
    wanted.ask("b", {"GPU": 1})
    now_s = 60.0
    wanted.ask("b", {"GPU": 1})
    timers.pop()[1]()
    assert requests == [[{"CPU": 8}], [{"CPU": 8}, {"GPU": 1}], [{"GPU": 1}]]
    now_s = 120.0
    timers.pop()[1]()
    assert requests[-1] == []
    assert not timers


def test_nodes_that_come_and_go_are_told_while_a_job_looks_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    changed = threading.Condition()
    states: list[Any] = [
        {"a": {"CPU": 1.0}},
        InfrastructureError("no answer"),
        {"a": {"CPU": 1.0}},
        {"a": {"CPU": 1.0}, "b": {"CPU": 4.0, "GPU": 2.0}},
    ]

    def living() -> dict[str, dict[str, float]]:
        state = states.pop(0) if len(states) > 1 else states[0]
        if isinstance(state, Exception):
            raise state
        return state

    def take(found: Any) -> None:
        with changed:
            seen.append(found)
            changed.notify()

    monkeypatch.setattr(nodes, "NODES_S", 0.01)
    following = Following(living, take)
    with following.nodes(), following.nodes(), changed:
        assert changed.wait_for(lambda: len(seen) == 2, 30)
    (thread,) = [one for one in threading.enumerate() if one.name == "nodes"] or [None]
    if thread is not None:
        thread.join(30)
    assert seen == [{"a": amounts(CPU=1)}, {"a": amounts(CPU=1), "b": amounts(CPU=4, GPU=2)}]


def test_what_living_nodes_have(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"NodeID": "a", "Alive": True, "Resources": SMALL},
        {"NodeID": "b", "Alive": False, "Resources": {"GPU": 8.0}},
    ]
    monkeypatch.setattr(ray, "nodes", lambda: rows)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    assert nodes.living_nodes() == {"a": SMALL}
