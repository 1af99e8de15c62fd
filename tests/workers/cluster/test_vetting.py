"""Nodes that differ from the server get no work, and say why."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
import ray

from ranksieve.workers.cluster import vetting
from ranksieve.workers.cluster.session import Cluster
from ranksieve.workers.cluster.vetting import FOLDER, Vetting, ask_nodes

CPU = {"CPU": 4.0}
NODES = {"a": CPU, "b": CPU, "head": {"memory": 1.0}}


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What nodes answer, besides what they have in common with the server: node → facts, or an error."""
    monkeypatch.setattr(ray, "nodes", lambda: [{"NodeID": "b", "NodeName": "10.0.0.2"}])
    return {}


@pytest.fixture
def asked() -> list[list[str]]:
    return []


@pytest.fixture
def vet(answers: dict[str, Any], asked: list[list[str]], tmp_path: Path) -> Vetting:
    def ask(nodes: Collection[str], file: Path | None) -> Mapping[str, Any]:
        asked.append(sorted(nodes))
        like_here = vetting._inspector()(file)
        given = {node: answers.get(node, {}) for node in nodes}
        return {node: one if isinstance(one, str) else like_here | one for node, one in given.items()}

    return Vetting(tmp_path / "cache", ask)


def test_nodes_like_the_server_are_asked_once(vet: Vetting, asked: list[list[str]], tmp_path: Path) -> None:
    assert vet.admitted(NODES) == NODES
    assert vet.admitted({**NODES, "c": CPU}).keys() == {*NODES, "c"}
    assert asked == [["a", "b"], ["c"]]
    assert vet.refusals == []
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "node", "reason"),
    [
        ({FOLDER: "is missing"}, CPU, "the server's data folder is missing on it"),
        ({"torch": "1.0"}, CPU, "it has torch 1.0, the server "),
        ({"ranksieve": "none"}, CPU, "it has ranksieve none, the server "),
        ({"torch": "2.13.0+cpu"}, {"CPU": 1.0, "GPU": 1.0}, "its torch 2.13.0+cpu cannot use its GPUs"),
        ("it did not answer", CPU, "it did not answer"),
    ],
)
def test_a_node_that_differs_is_not_used_and_says_why(
    vet: Vetting,
    answers: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    answer: Any,
    node: dict[str, float],
    reason: str,
) -> None:
    versions = vetting._inspector()
    monkeypatch.setattr(vetting, "_inspector", lambda: lambda file: versions(file) | {"torch": "2.13.0"})
    answers["b"] = answer
    assert vet.admitted({**NODES, "b": node}).keys() == {"a", "head"}
    [told] = vet.refusals
    assert told.startswith(f"node 10.0.0.2 is not used: {reason}")


def test_a_refused_node_is_asked_again_later_and_forgotten_when_it_leaves(
    vet: Vetting, answers: dict[str, Any], asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers["b"] = "it did not answer"
    vet.admitted(NODES)
    vet.admitted(NODES)
    assert asked == [["a", "b"]]
    assert vet.admitted({"a": CPU}) == {"a": CPU}
    assert vet.refusals == []
    vet.admitted(NODES)
    monkeypatch.setattr(vetting, "AGAIN_S", 0.0)
    answers.clear()
    assert vet.admitted(NODES) == NODES
    assert asked == [["a", "b"], ["b"], ["b"]]


@pytest.mark.usefixtures("cluster")
def test_a_real_node_tells_what_it_has(cluster: Cluster, tmp_path: Path) -> None:
    [node] = [node["NodeID"] for node in ray.nodes()]
    (tmp_path / "file").write_text("here")
    inspect: Callable[[Path | None], dict[str, str]] = vetting._inspector()
    assert ask_nodes([node], tmp_path / "file") == {node: inspect(tmp_path / "file")}
    assert ask_nodes([node], tmp_path / "other")[node][FOLDER] == "is missing"  # type: ignore[index]
    assert "could not be asked" in str(ask_nodes(["0" * 56], None))
