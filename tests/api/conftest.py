"""The real service over a temporary folder, with a pipeline and a preflight that are told what to do."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from documents import BAD_SPECS, CANDIDATE, ESTIMATE, MATRICES, RECORD, RESULT, SPEC, changed
from sample_jobs import SIZES
from starlette.testclient import TestClient

from ranksieve.api.client.client import Client
from ranksieve.api.http.app import create_app
from ranksieve.search.errors import CancelledError, InputError
from ranksieve.service.application import Application
from ranksieve.service.job import matrices
from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import Job, JobState
from ranksieve.service.run.controller import Controller
from ranksieve.service.run.feed import Feed
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.server.metrics import Metrics
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store
from ranksieve.service.webhooks.outcomes import Outcome
from ranksieve.service.webhooks.sender import Sender


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`bad_spec`: every kind of wrong spec, as (document, field that the answer must name)."""
    if "bad_spec" in metafunc.fixturenames:
        cases = [(changed(SPEC, place, value), field) for _, place, value, field in BAD_SPECS]
        metafunc.parametrize("bad_spec", cases, ids=[name for name, *_ in BAD_SPECS])


class FakePipeline:
    """Goes through a job's states with one event of each kind; stops in mid-search while `go` is unset."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.searching = threading.Event()
        self.failure: Exception | None = None
        self.result = deepcopy(RESULT)
        self.generations = 1

    def __call__(self, job: Job, log: JobLog) -> dict[str, Any]:
        matrices.keep(log.directory, MATRICES)
        splits = {"search": 8, "test": 8}
        log.event(EventType.DATA_LOADED, splits=splits, dropped_duplicates=0, digests={}, notes=[])
        log.event(EventType.PHASE_PROGRESS, phase="calibration", done=1, total=2)
        log.event(EventType.PHASE_PROGRESS, phase="calibration", done=2, total=2)
        log.state(JobState.PREPARING)
        log.state(JobState.SEARCHING)
        if log.search_state() is None:
            scored = [CANDIDATE, {**CANDIDATE, "failure": "not finite"}]
            for generation in range(self.generations):
                state = {"generation": generation, "flight": []}
                log.generation({**RECORD, "generation": generation}, [] if generation else scored, state)
        self.searching.set()
        while not (self.go.wait(timeout=0.01) or log.stopping.is_set()):
            log.raise_if_cancelled()
        if self.failure is not None:
            raise self.failure
        log.state(JobState.FINALIZING)
        artifacts = log.directory / "artifacts"
        (artifacts / "tokenizer").mkdir(parents=True)
        (artifacts / "config.json").write_text('{"ranks": [1, 2]}')
        (artifacts / "tokenizer" / "vocab.txt").write_text("a\nb\n")
        return self.result


class FakePreflight:
    """Refuses every spec with `error`, once there is one; as an estimator it answers `ESTIMATE` to the others.

    While `go` is not set, every spec waits; `waiting` counts them, and `left` those that were cancelled.
    """

    def __init__(self) -> None:
        self.error: InputError | None = None
        self.go, self.waiting = threading.Event(), threading.Semaphore(0)
        self.left = threading.Semaphore(0)
        self.go.set()

    def __call__(self, spec: JobSpec, cancelled: threading.Event | None) -> JobSpec:
        if not self.go.is_set():
            self.waiting.release()
        while not self.go.wait(0.01):
            if cancelled is not None and cancelled.is_set():
                self.left.release()
                raise CancelledError("the client left")
        if self.error is not None:
            raise self.error
        return spec.with_sizes({**SIZES, **spec.sizes}).on_cluster([{"CPU": 2}])

    def estimate(self, spec: JobSpec, cancelled: threading.Event | None) -> dict[str, Any]:
        self(spec, cancelled)
        return deepcopy(ESTIMATE)


class FakeEndpoint:
    """Where all webhooks lead: keeps what it is sent, answers `outcomes` in turn, then 200."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.outcomes: list[Outcome] = []
        self.received: list[tuple[str, dict[str, str], str]] = []

    def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        with self._changed:
            self.received.append((url, dict(headers), body.decode()))
            self._changed.notify_all()
            return self.outcomes.pop(0) if self.outcomes else Outcome(status=200)

    def wait_for(self, count: int) -> None:
        """Waits until it was sent so many deliveries."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.received) >= count, timeout=20)

    @staticmethod
    def settled(http: TestClient, webhook_id: str) -> list[dict[str, Any]]:
        """The deliveries of a webhook, once none of them waits."""
        deadline_s = time.monotonic() + 20
        while time.monotonic() < deadline_s:
            found: list[dict[str, Any]] = http.get(f"/v1/webhooks/{webhook_id}/deliveries").json()[
                "deliveries"
            ]
            if all(one["state"] != "pending" for one in found):
                return found
            time.sleep(0.01)  # over HTTP there is nothing to wait on
        raise AssertionError(found)


@pytest.fixture(scope="session", autouse=True)
def _fast_commits(unsynced_sqlite: Callable[..., None]) -> None:
    """Make commits of every store in this process take no time."""


@pytest.fixture
def endpoint() -> FakeEndpoint:
    return FakeEndpoint()


@pytest.fixture
def estimate() -> dict[str, Any]:
    return deepcopy(ESTIMATE)


@pytest.fixture
def spec() -> dict[str, Any]:
    return deepcopy(SPEC)


@pytest.fixture
def result() -> dict[str, Any]:
    return deepcopy(RESULT)


@pytest.fixture
def pipeline() -> Iterator[FakePipeline]:
    pipeline = FakePipeline()
    yield pipeline
    pipeline.go.set()


@pytest.fixture
def preflight() -> Iterator[FakePreflight]:
    preflight = FakePreflight()
    yield preflight
    preflight.go.set()


@pytest.fixture
def build(
    pipeline: FakePipeline, preflight: FakePreflight, endpoint: FakeEndpoint
) -> Callable[[Settings], Application]:
    """What `service.wiring.build` does, around the fakes."""
    return partial(_build, pipeline, preflight, endpoint)


def _build(
    pipeline: FakePipeline, preflight: FakePreflight, endpoint: FakeEndpoint, settings: Settings
) -> Application:
    store = Store(settings.store_url)
    metrics = Metrics()
    controller = Controller(store, pipeline, settings.jobs_dir, metrics=metrics, retry_s=0.0)
    sender = Sender(store.outbox, endpoint, metrics, folders=settings.private_folders)
    return Application(settings, store, controller, Feed(), preflight, preflight.estimate, metrics, sender)


@pytest.fixture(scope="module")
def shared_endpoint() -> FakeEndpoint:
    return FakeEndpoint()


@pytest.fixture(scope="module")
def share(
    tmp_path_factory: pytest.TempPathFactory, shared_endpoint: FakeEndpoint
) -> Iterator[Callable[..., TestClient]]:
    """Starts servers that all tests of a file share: for requests that have to leave them as they are."""
    with ExitStack() as stack:

        def start(**settings: Any) -> TestClient:
            folder = tmp_path_factory.mktemp("shared") / "data"
            given = Settings(data_dir=folder, requests_per_second=0, **settings)
            application = _build(FakePipeline(), FakePreflight(), shared_endpoint, given)
            client = TestClient(create_app(application), base_url="http://127.0.0.1")
            return stack.enter_context(client)

        yield start


@pytest.fixture(scope="module")
def shared(share: Callable[..., TestClient]) -> TestClient:
    """Such a server without further settings."""
    return share()


@pytest.fixture(scope="module")
def shared_job(shared: TestClient) -> dict[str, Any]:
    """A job of the shared server that has succeeded."""
    job: dict[str, Any] = shared.post("/v1/jobs", json=SPEC).json()
    shared.get(f"/v1/jobs/{job['id']}/events", headers={"Accept": "text/event-stream"})  # ends with the job
    return job


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


@pytest.fixture
def application(build: Callable[[Settings], Application], settings: Settings) -> Application:
    return build(settings)


@pytest.fixture
def http(application: Application) -> Iterator[TestClient]:
    """Raw requests to the running application."""
    with TestClient(create_app(application), base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def client(http: TestClient) -> Iterator[Client]:
    """Our client on the running application."""
    with Client("http://127.0.0.1", transport=http._transport, wait=lambda seconds: None) as client:
        yield client


@pytest.fixture
def done(client: Client, spec: dict[str, Any]) -> dict[str, Any]:
    """A job that has succeeded."""
    job = client.submit(spec)
    for _ in client.events(job["id"]):
        pass
    return client.job(job["id"])


@pytest.fixture
def searched(client: Client, spec: dict[str, Any]) -> dict[str, Any]:
    """A job that has succeeded, whose candidate was scored on all its search examples."""
    spec["task"]["data"]["sizes"] = {"search": 8}
    job = client.submit(spec)
    for _ in client.events(job["id"]):
        pass
    return client.job(job["id"])
