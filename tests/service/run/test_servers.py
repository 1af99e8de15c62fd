"""Several servers on one database: shared jobs, leases that ran out, and servers that are stopped and killed."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import ON_EACH
from fake_pipelines import SHORT_S, Held, succeed

import ranksieve.service
from ranksieve.search.errors import StoreError
from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import Job, JobState, Request
from ranksieve.service.run.controller import Controller
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store

MakeSpec = Callable[..., JobSpec]
WaitUntil = Callable[[Callable[[], bool]], None]
StartController = Callable[..., Controller]


@pytest.fixture
def other_store(store: Store, store_url: str, wait_until: WaitUntil) -> Iterator[Store]:
    """What another server has of the same database; `wait_until` hears of its commits too."""
    other = Store(store_url)
    other.base.listener = store.base.listener
    yield other
    other.close()


@ON_EACH
def test_two_servers_share_the_jobs_and_run_each_once(
    store: Store,
    other_store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    wait_until: WaitUntil,
) -> None:
    ran: list[str] = []
    both_run = threading.Barrier(2)

    def pipeline(job: Job, log: JobLog) -> dict[str, Any]:
        if job.id in ids[:2]:
            both_run.wait(60)
        ran.append(job.id)
        return succeed(job, log)

    ids = [store.submissions.create_job(make_spec()).id for _ in range(6)]
    for on in (store, other_store):
        start_controller(pipeline, on)
    wait_until(lambda: all(store.job(id).state.terminal for id in ids))

    assert sorted(ran) == ids
    assert {store.job(id).epoch for id in ids} == {1}


def test_a_server_that_is_silent_too_long_loses_its_job_and_cannot_harm_it(
    store: Store,
    other_store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    wait_until: WaitUntil,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard_again = threading.Event()
    renew = other_store.claims.renew

    def silent(*arguments: Any, **options: Any) -> Job:
        if not heard_again.is_set():
            raise StoreError("the network is gone")
        return renew(*arguments, **options)

    monkeypatch.setattr(other_store.claims, "renew", silent)
    ended = threading.Event()
    reported: list[bool] = []
    held = Held()

    def stubborn(job: Job, log: JobLog) -> dict[str, Any]:
        try:
            return held(job, log)
        finally:
            reported.append(log.cancelled.is_set())
            ended.set()

    job = store.submissions.create_job(make_spec())
    former = start_controller(stubborn, other_store, SHORT_S)
    assert held.searching.wait(60)
    start_controller(succeed, store, SHORT_S)
    wait_until(lambda: store.job(job.id).state.terminal)
    assert not ended.is_set()
    heard_again.set()

    assert ended.wait(60)
    assert reported == [True]
    former.stop()
    assert "this run ends" in caplog.text
    states = [event.data["state"] for event in store.events(job.id)]
    assert states == [
        "queued",
        "validating",
        "preparing",
        "searching",
        "validating",
        "preparing",
        "searching",
        "finalizing",
        "succeeded",
    ]
    assert store.job(job.id).result == {"name": job.name}


def test_a_job_is_cancelled_by_way_of_another_server(
    store: Store,
    other_store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    wait_until: WaitUntil,
) -> None:
    held = Held()
    job = store.submissions.create_job(make_spec())
    start_controller(held, store, SHORT_S)
    assert held.searching.wait(60)

    other_store.user_requests.ask(job.id, Request.CANCEL)

    wait_until(lambda: store.job(job.id).state is JobState.CANCELLED)


def test_a_server_that_slept_past_a_lease_does_not_take_over_its_own_job(
    store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held, looked, claim = Held(), threading.Semaphore(0), store.claims.claim_next

    def look(*lease_s: float, **options: Any) -> Job | None:
        found = claim(*lease_s, **options)
        looked.release()
        return found

    job = store.submissions.create_job(make_spec())
    controller = start_controller(held, running_jobs=2)
    assert held.searching.wait(60)
    epoch = store.job(job.id).epoch
    monkeypatch.setattr(store.claims, "claim_next", look)
    store.claims.renew(job.id, lease_s=-1, epoch=epoch)
    controller.wake()
    assert looked.acquire(timeout=60)

    assert (store.job(job.id).epoch, store.job(job.id).faults) == (epoch, 0)
    assert store.claims.claim_next(besides=[job.id]) is None
    taken = store.claims.claim_next()  # another server may
    assert taken is not None
    assert taken.epoch == epoch + 1


CHILD = """
import sys
from pathlib import Path

from ranksieve.service.run.controller import Controller
from ranksieve.service.job.job import JobState
from ranksieve.service.store import Store


def search_slowly(job, log):
    try:
        search(log)
    finally:
        print("ended", flush=True)


def search(log):
    log.state(JobState.PREPARING)
    log.state(JobState.SEARCHING)
    for number in range(1000):
        candidate = {
            "generation": number, "genome": [number, -1], "ranks": [number, 3],
            "kept_share": 0.4, "kl_nats": 0.1, "loss_nats": 0.1, "drop_points": 1.0, "drop_bound": 1.5, "metric": 0.8,
            "tokens": 10, "seconds": 0.1, "failure": None,
        }
        log.generation({"generation": number}, [candidate], {"next": number + 1})
        print(number, flush=True)
        log.cancelled.wait(0.02)


url, jobs_dir, lease_s = sys.argv[1:]
controller = Controller(Store(url), search_slowly, Path(jobs_dir), lease_s=float(lease_s))
controller.start()
sys.stdin.read()
"""


@pytest.fixture
def child(store_url: str, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A server of its own that prints the generations it saves, and `ended`; killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, store_url, str(tmp_path / "jobs"), str(SHORT_S)],
        cwd=Path(ranksieve.service.__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        yield child
        child.kill()


@pytest.mark.campaign
@pytest.mark.parametrize(
    "make_database", ["postgresql"], indirect=True
)  # a SQLite file has one server at a time
def test_a_server_that_was_stopped_past_its_lease_ends_without_a_trace(
    store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    wait_until: WaitUntil,
    child: subprocess.Popen[str],
) -> None:
    job = store.submissions.create_job(make_spec())
    assert child.stdout is not None
    lines = iter(child.stdout)
    while int(next(lines)) < 3:
        pass
    child.send_signal(signal.SIGSTOP)
    start_controller(succeed, lease_s=SHORT_S)
    wait_until(lambda: store.job(job.id).state.terminal)
    events, memo = store.events(job.id), store.memo(job.id)
    child.send_signal(signal.SIGCONT)

    assert "ended\n" in lines
    assert events[-1].data["state"] == "succeeded"
    assert store.events(job.id) == events
    assert store.memo(job.id) == memo


def test_a_killed_server_loses_nothing(
    store: Store,
    make_spec: MakeSpec,
    start_controller: StartController,
    wait_until: WaitUntil,
    child: subprocess.Popen[str],
) -> None:
    killed, queued = (
        store.submissions.create_job(make_spec("killed")),
        store.submissions.create_job(make_spec("queued")),
    )
    assert child.stdout is not None
    lines = iter(child.stdout)
    while int(next(lines)) < 5:
        pass
    child.kill()
    last_reported = max([5, *(int(line) for line in lines)])
    assert child.wait() == -signal.SIGKILL

    state = store.search_state(killed.id)
    assert state is not None
    assert state["next"] > last_reported
    saved = list(range(state["next"]))
    assert [record["generation"] for record in store.generations(killed.id)] == saved
    assert [candidate["genome"] for candidate in store.memo(killed.id)] == [[number, -1] for number in saved]
    completed = [
        event.data["generation"]
        for event in store.events(killed.id)
        if event.type is EventType.GENERATION_COMPLETED
    ]
    assert completed == saved

    found: dict[str, Any] = {}

    def go_on(job: Job, log: JobLog) -> dict[str, Any]:
        found[job.id] = log.search_state()
        return succeed(job, log)

    start_controller(go_on, lease_s=SHORT_S)
    wait_until(lambda: store.job(killed.id).state.terminal and store.job(queued.id).state.terminal)
    assert found == {killed.id: state, queued.id: None}
