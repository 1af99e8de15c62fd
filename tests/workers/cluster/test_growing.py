"""Real nodes of Ray that join and leave under a job."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

from ranksieve.search.errors import NoRoomError
from ranksieve.workers.cluster.phases import run_phase
from ranksieve.workers.cluster.session import Cluster

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
    }
    try:
        with (
            pytest.raises(NoRoomError, match="a node with 2 CPU, but the cluster has nodes with 1 CPU"),
            cluster.share("large", threads=2, **options),
        ):
            pass
        with cluster.share("small", threads=1, **options) as share:
            share.use(9)
            assert (share.held, share.take()) == (1, False)
            added = nodes.add_node(num_cpus=2)
            _wait(share.take)
            _wait(share.take)
            nodes.remove_node(added)
            _wait(lambda: share.excess == 2)
        last = nodes.add_node(num_cpus=2)
        with cluster.share("large", threads=2, **options) as share:
            assert share.held == 1

            def start_worker() -> Any:
                nodes.remove_node(last)
                return ray.remote(num_cpus=2)(_work).options(num_returns="streaming").remote()

            with pytest.raises(NoRoomError, match="has left the cluster"):
                run_phase("calibration", start_worker, share, threading.Event(), lambda item: None)
    finally:
        cluster.close()
        nodes.shutdown()


def test_a_job_uses_nodes_that_join_and_gives_back_those_that_leave() -> None:
    """In a process of its own: this one may have a Ray already."""
    subprocess.run([sys.executable, __file__], check=True)


if __name__ == "__main__":
    _grow_and_shrink()
