import asyncio
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ranksieve.search.errors import ConflictError, InputError, NotFoundError
from ranksieve.service.application import Application
from ranksieve.service.job.export import Export
from ranksieve.service.job.job import Job, JobState, Request
from ranksieve.service.run.controller import Controller
from ranksieve.service.run.feed import Feed
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec, ParentSpec, SeedSpec
from ranksieve.service.store import Store

MakeSpec = Callable[..., JobSpec]


def refuse_nameless(spec: JobSpec, cancelled: threading.Event | None) -> JobSpec:
    if not spec.name:
        raise InputError("name", "must not be empty")
    return spec


def estimate_named(spec: JobSpec, cancelled: threading.Event | None) -> dict[str, Any]:
    refuse_nameless(spec, cancelled)
    return {"name": spec.name}


class Pipeline:
    """Waits until it is let go, or asked to end."""

    def __init__(self) -> None:
        self.started = threading.Event()

    def __call__(self, job: Job, log: JobLog) -> dict[str, Any]:
        self.started.set()
        assert log.cancelled.wait(60)
        log.raise_if_cancelled()
        return {}


@pytest.fixture
def make_application(tmp_path: Path) -> Iterator[Callable[..., Application]]:
    """Makes servers over one data directory, and stops whatever still runs at the end."""
    made: list[Application] = []

    def make(**given: Any) -> Application:
        settings = Settings(**{"data_dir": tmp_path / "new" / "data"} | given)
        store = Store(settings.store_url)
        controller = Controller(store, Pipeline(), settings.jobs_dir)
        made.append(Application(settings, store, controller, Feed(), refuse_nameless, estimate_named))
        return made[-1]

    yield make
    for application in made:
        application.stop()


@pytest.fixture
def application(make_application: Callable[[], Application]) -> Application:
    return make_application()


def test_nothing_is_on_disk_before_the_start(application: Application) -> None:
    assert not application.settings.data_dir.exists()
    assert application.health() == {"healthy": False, "running_jobs": []}


def test_the_data_directory_is_for_its_owner_alone(application: Application) -> None:
    application.start()

    assert stat.S_IMODE(application.settings.data_dir.stat().st_mode) == 0o700
    assert (application.settings.data_dir / "ranksieve.db").is_file()
    assert application.health() == {"healthy": True, "running_jobs": []}


def test_a_submitted_job_runs_and_is_cancelled(application: Application, make_spec: MakeSpec) -> None:
    application.start()

    async def follow() -> Job:
        job = await asyncio.to_thread(application.submit, make_spec())
        async with application.feed.subscribe(job.id) as subscription:
            asked = False
            while not (job := application.store.job(job.id)).state.terminal:
                if job.state is JobState.VALIDATING and not asked:
                    asked = (
                        await asyncio.to_thread(application.controller.request, job.id, Request.CANCEL)
                        is not None
                    )
                assert await subscription.wait(60)
        return job

    job = asyncio.run(follow())

    assert job.state is JobState.CANCELLED
    assert application.artifacts_dir(job.id) == application.settings.data_dir / "jobs" / job.id / "artifacts"


def test_a_spec_that_cannot_work_makes_no_job(application: Application, make_spec: MakeSpec) -> None:
    application.start()

    with pytest.raises(InputError, match="name: must not be empty"):
        application.submit(make_spec(""))

    assert application.store.jobs() == []


def test_a_fork_is_known_by_its_key_and_only_of_jobs_that_its_owner_sees(
    application: Application, make_spec: MakeSpec, make_candidate: Callable[..., dict[str, Any]]
) -> None:
    store = application.store
    application.open()
    parent = store.submissions.create_job(make_spec("parent"), "alice")
    store.runs.save_generation(parent.id, {"generation": 0}, [make_candidate(0, 3)], {}, epoch=parent.epoch)
    spec = make_spec("fork").model_copy(update={"parent": ParentSpec(job=parent.id)})

    fork = application.submit(spec, "alice", "key", sees="alice")

    assert fork.spec.search.seeds == (SeedSpec(ranks=(48,)),)
    assert application.submit(spec, "alice", "key", sees="alice") == fork
    with pytest.raises(InputError, match=r"parent.job: there is no job"):
        application.submit(spec, "bob", sees="bob")
    with pytest.raises(InputError, match=r"parent.job: there is no job"):
        application.estimate(spec, sees="bob")


def test_an_estimate_needs_no_start_and_makes_no_job(application: Application, make_spec: MakeSpec) -> None:
    assert application.estimate(make_spec()) == {"name": "sentiment"}
    with pytest.raises(InputError, match="name: must not be empty"):
        application.estimate(make_spec(""))
    assert stat.S_IMODE(application.settings.data_dir.stat().st_mode) == 0o700

    application.start()
    assert application.estimate(make_spec()) == {"name": "sentiment"}
    assert application.store.jobs() == []


def test_of_two_who_delete_a_job_with_exports_the_later_is_told_of_the_job(
    application: Application, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = application.store
    application.settings.data_dir.mkdir(parents=True)
    job = store.submissions.create_job(make_spec())
    asked = Export(job=job.id, asked={"share": 0.5}, candidate={"genome": [0]}, finalist=None, known={})
    export = store.submissions.create_export(job, asked)
    for one in (job, export):
        application.controller.request(one.id, Request.CANCEL)
    delete, overtaken = store.submissions.delete_job, []

    def late(id: str, owner: str | None) -> None:
        if not overtaken:
            overtaken.append(id)
            application.delete(job.id)
        delete(id, owner)

    monkeypatch.setattr(store.submissions, "delete_job", late)

    with pytest.raises(NotFoundError, match=f"no job '{job.id}'"):
        application.delete(job.id)


def test_nobody_waits_for_the_disk_while_files_of_a_deleted_job_are_removed(
    application: Application, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    application.start()
    job = application.submit(make_spec())
    application.controller.request(job.id, Request.CANCEL)
    application.controller.stop()  # waits until it is cancelled
    folder = application.settings.jobs_dir / job.id
    folder.mkdir(parents=True, exist_ok=True)
    usual, queued = shutil.rmtree, []

    def remove(path: Path) -> None:
        queued.append(application.store.submissions.create_job(make_spec()))
        usual(path)

    monkeypatch.setattr(shutil, "rmtree", remove)
    application.delete(job.id)

    assert not folder.exists()
    assert [one.id for one in application.store.jobs()] == [one.id for one in queued]


def test_with_sqlite_a_job_of_a_dead_server_is_taken_up_at_once(
    make_application: Callable[[], Application], make_spec: MakeSpec
) -> None:
    dead, next_one = make_application(), make_application()
    dead.settings.data_dir.mkdir(parents=True)
    job = dead.store.submissions.create_job(make_spec())
    assert dead.store.claims.claim_next(lease_s=1000) is not None

    next_one.start()

    pipeline = next_one.controller._pipeline
    assert isinstance(pipeline, Pipeline)
    assert pipeline.started.wait(60)
    assert next_one.health()["running_jobs"] == [job.id]


def test_servers_share_a_data_directory_over_postgresql(
    make_application: Callable[..., Application], postgres: Any
) -> None:
    url = postgres.create()
    servers = [make_application(database_url=url) for _ in range(2)]
    for server in servers:
        server.start()

    assert all(server.health()["healthy"] for server in servers)


def test_a_second_server_is_refused_until_the_first_stops(
    make_application: Callable[[], Application],
) -> None:
    first, second = make_application(), make_application()
    first.start()

    with pytest.raises(ConflictError, match=r"another ranksieve server owns .*/new/data"):
        second.start()
    assert not second.health()["healthy"]

    stopping = threading.Thread(target=first.stop)
    stopping.start()
    stopping.join()
    second.start()
    assert second.health()["healthy"]


def test_a_second_server_on_the_same_sqlite_file_is_refused_whatever_its_directory(
    make_application: Callable[..., Application], tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    first = make_application(database_url=url)
    second = make_application(database_url=url, data_dir=tmp_path / "other")
    first.start()

    with pytest.raises(ConflictError, match=r"another ranksieve server owns .*/shared\.db; stop it"):
        second.start()

    first.stop()
    second.start()
    assert second.health()["healthy"]


def test_a_database_that_another_server_owns_is_not_touched(
    make_application: Callable[..., Application], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/shared.db"
    first = make_application(database_url=url)
    second = make_application(database_url=url, data_dir=tmp_path / "other")
    first.start()
    opened: list[bool] = []
    monkeypatch.setattr(second.store, "open", lambda: opened.append(True))

    with pytest.raises(ConflictError, match="another ranksieve server owns"):
        second.open()
    assert not opened


def test_an_application_that_cannot_start_running_jobs_gives_all_back(
    make_application: Callable[[], Application], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_application(), make_application()

    def fail() -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(first.controller, "start", fail)
    with pytest.raises(RuntimeError, match="new thread"):
        first.start()

    second.start()
    assert second.health()["healthy"]


def test_a_start_that_fails_gives_the_directory_back(
    make_application: Callable[[], Application], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make_application(), make_application()

    def fail() -> None:
        raise ConflictError("a newer version wrote it")

    monkeypatch.setattr(first.store, "open", fail)
    with pytest.raises(ConflictError, match="newer version"):
        first.start()

    second.start()
    assert second.health()["healthy"]


def test_a_job_goes_on_after_stop_and_start(
    make_application: Callable[[], Application], make_spec: MakeSpec
) -> None:
    first, second = make_application(), make_application()
    first.start()
    job = first.submit(make_spec())
    first.stop()

    assert second.store.job(job.id).state in (JobState.QUEUED, JobState.VALIDATING, JobState.PREPARING)
    second.start()
    second.controller.request(job.id, Request.CANCEL)
