"""Whether Ray answers, asked of a cluster that is not connected: nothing may be started to find out."""

import socket

import pytest
import ray

from ranksieve.workers.cluster.session import Cluster
from ranksieve.workers.cluster.vetting import Vetting


@pytest.fixture(autouse=True)
def _not_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", never)


@pytest.mark.parametrize("address", [None, "auto", "local"])
def test_before_the_first_job_nothing_is_known(address: str | None) -> None:
    assert Cluster(address).answers() is None


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_cluster_to_join_is_knocked_at(form: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert Cluster(form.format(port)).answers() is True
    assert Cluster(form.format(port)).answers() is False


def test_a_connected_cluster_without_a_living_node_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    for nodes, answers in (([{"Alive": False}], False), ([{"Alive": False}, {"Alive": True}], True)):
        monkeypatch.setattr(ray, "nodes", lambda nodes=nodes: nodes)
        assert Cluster().answers() is answers


def test_a_cluster_lacks_processors_or_nodes_like_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"NodeID": "head", "NodeName": "1", "Alive": True, "Resources": {"memory": 1.0}}]
    cluster = Cluster("127.0.0.1:1")
    cluster._vetting = Vetting(None, lambda nodes, file: dict.fromkeys(nodes, "it did not answer"))
    assert cluster.lacks() is None
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: rows)
    monkeypatch.setattr(ray, "cluster_resources", lambda: rows[0]["Resources"])
    assert cluster.lacks() == "no node of the Ray cluster has a CPU; jobs wait for one"
    rows.append({"NodeID": "a", "NodeName": "2", "Alive": True, "Resources": {"CPU": 1.0}})
    assert cluster.lacks() is None
    cluster._usable_nodes()
    assert "differ from this server" in str(cluster.lacks())
