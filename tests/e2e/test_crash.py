"""What a job survives: the death of the server, of an actor, of Ray, a pause. And its end on request."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from ranksieve.api.client.client import Client

Document = dict[str, Any]
Essence = Callable[[Document], Document]
Serve = Callable[[Path], AbstractContextManager[Any]]

LAST_GENERATION = 3
CANCELLED_WITHIN_S = 10


@pytest.fixture(scope="module")
def long_spec(base_spec: Document) -> Document:
    """A search that takes long enough to be disturbed: many generations."""
    spec = deepcopy(base_spec)
    spec["objective"] = {"kind": "target_params", "share": 0.08}
    spec["task"]["data"]["sizes"] |= {"confirm": 128, "test": 128}
    del spec["policy"]  # that of the servers
    return spec


@pytest.fixture(scope="module", name="serve")
def serve_slowly(serve: Callable[..., AbstractContextManager[Any]], base_spec: Document) -> Serve:
    """Starts a server on a data directory, which searches in small batches."""
    policy = deepcopy(base_spec["policy"])
    policy["search"] |= {"generations": LAST_GENERATION, "max_evaluations": 1000, "patience": 100}
    return partial(serve, constants={"policy": policy, "batch_tokens": 48})


@pytest.fixture(scope="module")
def server(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server that nobody kills."""
    with serve(tmp_path_factory.mktemp("undisturbed") / "data") as server:
        yield server


@pytest.fixture(scope="module")
def undisturbed(server: Any, long_spec: Document) -> Document:
    """The job's result when nothing happens to it."""
    with server.client() as client:
        id = client.submit(long_spec)["id"]
        return finish(client, id)


def reach_generation(client: Client, id: str, number: int) -> int:
    """Waits for the end of a generation; returns its event's number."""
    for event in client.events(id):
        if event["type"] == "generation.completed" and event["data"]["generation"] == number:
            return int(event["seq"])
    raise AssertionError(f"the job ended before generation {number}: {client.job(id)}")


def finish(client: Client, id: str, after: int = 0) -> Document:
    for _ in client.events(id, after):
        pass
    job = client.job(id)
    assert job["state"] == "succeeded", job["error"]
    result: Document = job["result"]
    return result


def generations(client: Client, id: str) -> list[int]:
    return [record["generation"] for record in client.generations(id)]


def test_a_job_outlives_the_death_of_an_actor_and_then_of_its_server(
    serve: Serve, long_spec: Document, undisturbed: Document, essence: Essence, tmp_path: Path
) -> None:
    with serve(tmp_path / "data") as server:
        with server.client() as client:
            id = client.submit(long_spec)["id"]
            reach_generation(client, id, 0)
            first, *_ = server.actors()
            first.kill()
            replaced = next(e for e in client.events(id) if e["type"] == "actor.replaced")
            assert "died" in replaced["data"]["reason"]
            seen = reach_generation(client, id, 1)
            assert client.job(id)["state"] == "searching"
        server.kill()

    with serve(tmp_path / "data") as server, server.client() as client:
        events = list(client.events(id, seen))
        result = finish(client, id, events[-1]["seq"])
        numbers = generations(client, id)

    resumed = [event for event in events if event["data"].get("resumed")]
    assert [event["data"]["state"] for event in resumed] == ["validating"]
    assert not [event for event in events if event["type"] == "actor.replaced"]
    completed = [e["data"]["generation"] for e in events if e["type"] == "generation.completed"]
    assert completed[0] >= 2
    assert numbers == list(range(LAST_GENERATION + 1))  # none is lost, none is done twice
    assert essence(result) == essence(undisturbed)


def test_a_job_outlives_the_death_of_ray_and_a_pause_and_tells_of_both(
    serve: Serve, long_spec: Document, undisturbed: Document, essence: Essence, tmp_path: Path
) -> None:
    with serve(tmp_path / "data") as server, server.client() as client:
        id = client.submit(long_spec)["id"]
        reach_generation(client, id, 0)
        (raylet,) = server.raylets()
        raylet.kill()
        seen = reach_generation(client, id, 1)  # its workers outlive it for some seconds
        actors = server.actors()
        client.pause(id)
        for event in client.events(id, seen):
            seen = event["seq"]
            if event["data"].get("state") == "paused":
                break
        _, alive = psutil.wait_procs(actors, timeout=CANCELLED_WITHIN_S)
        assert not alive
        client.resume(id)
        result = finish(client, id, seen)
        waits = [event for event in client.events(id) if "retry_in_s" in event["data"]]

        assert waits
        assert {event["data"]["error"]["code"] for event in waits} == {"infrastructure"}
        assert generations(client, id) == list(range(LAST_GENERATION + 1))
        assert essence(result) == essence(undisturbed)


def test_a_cancelled_search_ends_within_seconds(server: Any, long_spec: Document) -> None:
    with server.client() as client:
        id = client.submit(long_spec)["id"]
        seen = reach_generation(client, id, 1)
        actors = server.actors()
        deadline = time.monotonic() + CANCELLED_WITHIN_S
        client.cancel(id)
        last = list(client.events(id, seen))[-1]
        assert last["data"]["state"] == "cancelled"
        left = deadline - time.monotonic()
        assert left > 0
        _, alive = psutil.wait_procs(actors, timeout=left)  # a killed process takes a moment to be gone
        assert 1 <= len(actors) <= 2  # the second one may still be starting
        assert not alive
        assert not server.actors()
        assert LAST_GENERATION not in generations(client, id)
