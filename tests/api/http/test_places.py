"""Checks of one owner keep no other owner waiting, and end with their client."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx2
import pytest

from ranksieve.api.cli.embedded import embedded
from ranksieve.api.http import places
from ranksieve.api.http.places import OWNER_PLACES
from ranksieve.service.server.keys import Scope
from ranksieve.service.server.settings import Settings


@pytest.fixture
def ask(build, tmp_path, spec):
    """Asks for an estimate as an owner of a real server."""
    application = build(Settings(data_dir=tmp_path / "data", requests_per_second=0))
    application.open()
    keys = {owner: application.store.keys.create(owner, Scope.SUBMIT)[1] for owner in ("alice", "bob")}
    with embedded(application) as client:
        url = f"{client.connection.url}/v1/estimates"

        def send(owner, timeout_s=20.0):
            headers = {"Authorization": f"Bearer {keys[owner]}"}
            return httpx2.post(url, json=spec, headers=headers, timeout=timeout_s)

        yield send


def test_an_owner_takes_a_quarter_of_the_places(ask, preflight):
    preflight.go.clear()
    with ThreadPoolExecutor(10) as clients:
        asked = [clients.submit(ask, "alice") for _ in range(8)]
        for _ in range(OWNER_PLACES):
            preflight.waiting.acquire()
        asked.append(clients.submit(ask, "bob"))
        assert preflight.waiting.acquire(timeout=20)  # bob's
        assert not preflight.waiting.acquire(timeout=0.2)
        preflight.go.set()
        assert {one.result().status_code for one in asked} == {200}


def test_a_check_ends_with_its_client(ask, preflight):
    preflight.go.clear()
    for _ in range(2 * OWNER_PLACES):
        with suppress(httpx2.ReadTimeout):
            ask("alice", timeout_s=0.3)
        assert preflight.left.acquire(timeout=20)
    preflight.go.set()
    assert ask("alice").status_code == 200


def test_an_owner_lets_only_so_many_wait(ask, preflight, monkeypatch):
    monkeypatch.setattr(places, "OWNER_WAITING", 0)
    preflight.go.clear()
    with ThreadPoolExecutor(10) as clients:
        asked = [clients.submit(ask, "alice") for _ in range(OWNER_PLACES)]
        for _ in asked:
            preflight.waiting.acquire()
        refused = ask("alice")
        assert (refused.status_code, refused.headers["Retry-After"]) == (429, str(places.RETRY_AFTER_S))
        assert "wait to be checked" in refused.json()["detail"]
        preflight.go.set()
        assert {one.result().status_code for one in asked} == {200}
