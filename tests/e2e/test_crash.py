"""Whole jobs under the deaths of their server, an actor and Ray, under a pause, and their ends on request."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest

from ranksieve.api.client.client import Client

Document = dict[str, Any]
Essence = Callable[[Document], Document]
Serve = Callable[[Path], AbstractContextManager[Any]]

CANCELLED_WITHIN_S = 10


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served") / "data"


@pytest.fixture(scope="module")
def server(serve: Serve, data_dir: Path) -> Iterator[Any]:
    """A server until a test kills it."""
    with serve(data_dir) as server:
        yield server


@pytest.fixture
def last_generation(spec: Document) -> int:
    number: int = spec["policy"]["search"]["generations"]
    return number


@pytest.fixture
def submitted(spec: Document) -> Document:
    """The job whose undisturbed result is `result`; the policy is that of the servers."""
    return {name: value for name, value in spec.items() if name != "policy"}


def reach_generation(client: Client, id: str, number: int, after: int = 0) -> int:
    """Waits for the end of a generation; returns its event's number."""
    for event in client.events(id, after):
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


@pytest.mark.campaign
def test_a_cancelled_search_ends_within_seconds(
    server: Any, submitted: Document, last_generation: int
) -> None:
    with server.client() as client:
        id = client.submit(submitted)["id"]
        seen = reach_generation(client, id, 0)
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
        assert last_generation not in generations(client, id)


def test_a_job_outlives_the_death_of_an_actor_and_then_of_its_server(
    server: Any,
    serve: Serve,
    data_dir: Path,
    submitted: Document,
    result: Document,
    essence: Essence,
    last_generation: int,
) -> None:
    with server.client() as client:
        id = client.submit(submitted)["id"]
        reach_generation(client, id, 0)
        first, *_ = server.actors()
        first.kill()
        replaced = next(e for e in client.events(id) if e["type"] == "actor.replaced")
        assert "died" in replaced["data"]["reason"]
        seen = reach_generation(client, id, 1)
        assert client.job(id)["state"] == "searching"
    server.kill()

    with serve(data_dir) as next_server, next_server.client() as client:
        events = list(client.events(id, seen))
        found = finish(client, id, events[-1]["seq"])
        numbers = generations(client, id)

    resumed = [event for event in events if event["data"].get("resumed")]
    assert [event["data"]["state"] for event in resumed] == ["validating"]
    assert not [event for event in events if event["type"] == "actor.replaced"]
    completed = [e["data"]["generation"] for e in events if e["type"] == "generation.completed"]
    assert completed[0] >= 2
    assert numbers == list(range(last_generation + 1))  # none is lost, none is done twice
    assert essence(found) == essence(result)


@pytest.mark.campaign
def test_a_job_outlives_the_death_of_ray_and_a_pause_and_tells_of_both(
    serve: Serve,
    submitted: Document,
    result: Document,
    essence: Essence,
    tmp_path: Path,
    last_generation: int,
) -> None:
    with serve(tmp_path / "data") as server, server.client() as client:
        id = client.submit(submitted)["id"]
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
        found = finish(client, id, seen)
        waits = [event for event in client.events(id) if "retry_in_s" in event["data"]]

        assert waits
        assert {event["data"]["error"]["code"] for event in waits} == {"infrastructure"}
        assert generations(client, id) == list(range(last_generation + 1))
        assert essence(found) == essence(result)
