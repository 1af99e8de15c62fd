"""Real nodes of Ray that join and leave under a job."""

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

from ranksieve.search.errors import NoRoomError
from ranksieve.workers.cluster import crew
from ranksieve.workers.cluster.dispatcher import Dispatcher
from ranksieve.workers.cluster.packing import Place
from ranksieve.workers.cluster.phases import run_phase
from ranksieve.workers.cluster.session import Cluster, _options
from ranksieve.workers.types.scores import ScoreRequest

pytestmark = pytest.mark.campaign


def _wait(until: Callable[[], object]) -> None:
    end_s = time.monotonic() + 30
    while not until():
        assert time.monotonic() < end_s
        time.sleep(0.1)


def _work() -> Iterator[None]:
    yield


def _grow_and_shrink() -> None:
    from ray.cluster_utils import Cluster as Nodes  # in this process alone

    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster = Cluster(nodes.address)
    options: dict[str, Any] = {
        "actors": 9,
        "gpus": 0,
        "priority": 0,
        "cancelled": threading.Event(),
        "on_held": lambda held: None,
        "on_notice": lambda reason: None,
    }
    try:
        with (
            pytest.raises(NoRoomError, match="a node with 2 CPU, but the cluster has nodes with 1 CPU"),
            cluster.share("large", threads=2, **options),
        ):
            pass
        with cluster.share("small", threads=1, **options) as share:
            share.use(9)
            assert (share.held, share.take()) == (1, None)
            added = nodes.add_node(num_cpus=2)
            _wait(share.take)
            _wait(share.take)
            nodes.remove_node(added)
            _wait(lambda: share.held == 1)
        last = nodes.add_node(num_cpus=2)
        with cluster.share("large", threads=2, **options) as share:
            assert share.held == 1

            def start_worker(place: Place) -> Any:
                nodes.remove_node(last)
                return ray.remote(num_cpus=2)(_work).options(num_returns="streaming").remote()

            with pytest.raises(NoRoomError, match="has left the cluster"):
                run_phase("calibration", start_worker, share, threading.Event(), lambda item: None)
    finally:
        cluster.close()
        nodes.shutdown()


def _spread_and_lose() -> None:
    from ray.cluster_utils import Cluster as Nodes

    nodes = Nodes(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    first, second = (nodes.add_node(num_cpus=3) for _ in range(2))
    cluster, replaced, reasons = Cluster(nodes.address), list[str](), list[str]()
    crew.PLACED_S = 1.0

    class Actor:  # local, so that Ray sends it by value
        def pid(self) -> int:
            return 0

        def score(self, request: Any) -> str:
            return ray.get_runtime_context().get_node_id()

    def start(place: Place) -> Any:
        return ray.remote(Actor).options(**_options(share, place)).remote()  # type: ignore[attr-defined]

    def run(count: int) -> set[str]:
        """Return the nodes that answer this many requests."""
        request = ScoreRequest(ranks=(1,), split="search", start=0, stop=1)
        return set(dispatcher.run("score", [request] * count))

    options: dict[str, Any] = {"actors": 4, "gpus": 0, "priority": 0, "cancelled": threading.Event()}
    try:
        with cluster.share("a", threads=1, on_held=id, on_notice=reasons.append, **options) as share:
            nothing = threading.Event()
            dispatcher = Dispatcher(
                start, share, timeout_s=60, cancelled=nothing, on_replaced=lambda _, why: replaced.append(why)
            )
            _wait(lambda: run(9) == {first.node_id, second.node_id})
            assert Counter(place.node for place in share._places) == {first.node_id: 2, second.node_id: 2}
            nodes.remove_node(second)
            assert run(9) <= {first.node_id, second.node_id}
            _wait(lambda: run(3) and share.held == 3)  # one more went to the node that is left
            assert run(9) == {first.node_id}
            assert len(replaced) >= 2
            dispatcher.close()
            other = ray.remote(num_cpus=2)(Actor).remote()
            ray.get(other.pid.remote())
            dispatcher = Dispatcher(start, share, timeout_s=60, cancelled=nothing, on_replaced=id)
            _wait(lambda: run(3) and reasons)
            assert "Ray has not placed actor" in reasons[0]
            dispatcher.close()
    finally:
        cluster.close()
        nodes.shutdown()


@pytest.mark.parametrize("what", ["grow and shrink", "spread and lose"])
def test_a_job_follows_nodes_that_join_and_leave(what: str) -> None:
    """In a process of its own: this one may have a Ray already."""
    subprocess.run([sys.executable, __file__, what], check=True)


if __name__ == "__main__":
    {"grow and shrink": _grow_and_shrink, "spread and lose": _spread_and_lose}[sys.argv[1]]()
