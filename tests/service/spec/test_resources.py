"""Resources that a job file leaves open, filled in by the cluster."""

from typing import Any

import pytest

from ranksieve.search.errors import InputError
from ranksieve.service.pipeline.checking import on_cluster
from ranksieve.service.spec import JobSpec, ResourceSpec


@pytest.mark.parametrize(
    ("given", "cpus", "gpus", "actors", "gpus_per_actor"),
    [
        ({}, 8, 0, 8, 0),
        ({}, 64, 4, 4, 1),
        ({}, 2, 4, 2, 1),
        ({"threads_per_actor": 4}, 8, 0, 2, 0),
        ({"threads_per_actor": 16}, 8, 0, 1, 0),
        ({"gpus_per_actor": 0}, 8, 2, 8, 0),
        ({"gpus_per_actor": 0.25}, 64, 2, 8, 0.25),
        ({"gpus_per_actor": 4}, 64, 8, 2, 4),
        ({"actors": 3}, 64, 8, 3, 1),
        ({"actors": 3, "gpus_per_actor": 0}, 1, 0, 3, 0),
        ({}, 100_000, 0, 4096, 0),
        ({}, 0.5, 0.5, 1, 0),
    ],
)
def test_what_is_left_open_is_as_much_as_the_cluster_has(
    given: dict[str, Any], cpus: float, gpus: float, actors: int, gpus_per_actor: float
) -> None:
    settled = ResourceSpec(**given).settled([{"CPU": cpus, "GPU": gpus}])
    assert (settled.actors, settled.gpus_per_actor) == (actors, gpus_per_actor)
    assert settled.settled([{"CPU": 1}]) == settled
    assert ResourceSpec.model_validate(settled.model_dump(mode="json")) == settled


@pytest.mark.parametrize(
    ("gpus_per_actor", "device", "batch_tokens"), [(None, "cpu", 768), (0, "cpu", 768), (0.5, "cuda", 4096)]
)
def test_batches_go_by_the_device(gpus_per_actor: float | None, device: str, batch_tokens: int) -> None:
    resources = ResourceSpec(gpus_per_actor=gpus_per_actor)
    assert (resources.device, resources.batch_tokens) == (device, batch_tokens)


class FakeCluster:
    """A cluster of some nodes, which counts how often it is asked for them."""

    def __init__(self, *nodes: dict[str, float], may_grow: bool = False) -> None:
        self._nodes = list(nodes)
        self.may_grow = may_grow
        self.asked = 0

    def nodes(self) -> list[dict[str, float]]:
        self.asked += 1
        return self._nodes


def spec(**resources: Any) -> JobSpec:
    task = {"kind": "lm", "answer": "a", "data": {"source": {"path": "a.jsonl"}}}
    return JobSpec.model_validate({"model": "org/name", "task": task, "resources": resources})


def test_a_job_gets_as_many_actors_as_its_nodes_have_room_for() -> None:
    cluster: Any = FakeCluster({"CPU": 8, "GPU": 2}, {"CPU": 8}, {"CPU": 3, "GPU": 4})
    resources = on_cluster(spec(threads_per_actor=2), cluster).resources
    assert (resources.actors, resources.gpus_per_actor) == (3, 1)
    assert cluster.asked == 1


@pytest.mark.parametrize(
    ("resources", "field"),
    [
        ({"threads_per_actor": 9}, "resources.threads_per_actor"),
        ({"gpus_per_actor": 3}, "resources.gpus_per_actor"),
    ],
)
def test_an_actor_that_no_node_holds_is_refused(resources: dict[str, int], field: str) -> None:
    cluster: Any = FakeCluster({"CPU": 8, "GPU": 2}, {"CPU": 8})
    with pytest.raises(InputError) as caught:
        on_cluster(spec(**resources), cluster)
    assert caught.value.field == field
    growing: Any = FakeCluster({"CPU": 8, "GPU": 2}, {"CPU": 8}, may_grow=True)
    assert on_cluster(spec(**resources), growing).resources.threads_per_actor


def test_a_cluster_that_does_not_answer_decides_nothing() -> None:
    cluster: Any = FakeCluster()
    with pytest.raises(
        InputError, match=r"resources: the cluster does not answer.* or give actors and gpus_per"
    ):
        on_cluster(spec(actors=2), cluster)
    given = spec(actors=2, gpus_per_actor=0)
    assert on_cluster(given, cluster) == given
