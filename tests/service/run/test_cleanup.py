import errno
import logging
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from ranksieve.service.job.job import Job, Request
from ranksieve.service.run import cleanup
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store

MakeSpec = Callable[..., JobSpec]

DAY = timedelta(days=1)


@pytest.fixture
def deleted(store: Store, make_spec: MakeSpec, tmp_path: Path) -> Job:
    """A job that the store has forgotten, with files."""
    job = store.submissions.create_job(make_spec())
    store.user_requests.ask(job.id, Request.CANCEL)
    (tmp_path / job.id / "artifacts").mkdir(parents=True)
    (tmp_path / job.id / "artifacts" / "report.json").write_text("{}")
    store.submissions.delete_job(job.id)
    return job


def test_what_is_left_of_deleted_jobs_goes_and_nothing_else(
    store: Store, deleted: Job, make_spec: MakeSpec, tmp_path: Path
) -> None:
    kept = [store.submissions.create_job(make_spec()).id, "of another database"]
    for name in kept:
        (tmp_path / name).mkdir()

    cleanup.sweep(store, tmp_path, DAY)

    assert sorted(folder.name for folder in tmp_path.iterdir() if folder.is_dir()) == sorted(kept)


def test_servers_with_files_of_their_own_remove_them_until_that_is_long_ago(
    store: Store, deleted: Job, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    cleanup.remove(elsewhere, deleted.id)  # by the server that was asked to delete it, which has none
    cleanup.sweep(store, elsewhere, DAY)
    assert store.cleanup.removals() == [deleted.id]

    cleanup.sweep(store, tmp_path, DAY)
    assert not (tmp_path / deleted.id).exists()
    cleanup.sweep(store, tmp_path, timedelta())
    assert store.cleanup.removals() == []


def test_a_folder_that_cannot_be_read_ends_nothing(
    store: Store,
    deleted: Job,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def stale(*_: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(Path, "glob", stale)
        cleanup.sweep(store, tmp_path, DAY)

    assert f"{tmp_path} could not be searched" in caplog.text
    assert not (tmp_path / deleted.id).exists()


def test_files_that_cannot_be_removed_are_tried_again(
    store: Store,
    deleted: Job,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(folder: Path) -> None:
        raise PermissionError("read-only")

    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
        patch.setattr(shutil, "rmtree", fail)
        cleanup.sweep(store, tmp_path, timedelta())
    assert (
        f"job {deleted.id} was deleted, but its files could not be removed yet, will try again: read-only"
        in caplog.text
    )
    assert store.cleanup.removals() == [deleted.id]

    cleanup.sweep(store, tmp_path, timedelta())
    assert not (tmp_path / deleted.id).exists()
    assert store.cleanup.removals() == []


def test_two_servers_may_remove_the_same_files(
    store: Store, deleted: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = shutil.rmtree

    def meet(folder: Path) -> None:
        monkeypatch.setattr(shutil, "rmtree", usual)
        shutil.rmtree(folder / "artifacts")
        raise FileNotFoundError(folder / "artifacts")

    monkeypatch.setattr(shutil, "rmtree", meet)
    assert cleanup.remove(tmp_path, deleted.id)
    assert not (tmp_path / deleted.id).exists()


def test_what_is_half_written_goes_unless_its_job_may_be_writing_it(
    store: Store, make_spec: MakeSpec, tmp_path: Path
) -> None:
    running, paused, cancelled = (
        store.submissions.create_job(make_spec(), idempotency_key=str(i)).id for i in range(3)
    )
    assert store.claims.claim_next() is not None
    store.user_requests.ask(paused, Request.PAUSE)
    store.user_requests.ask(cancelled, Request.CANCEL)
    names = (
        "model.tmp/config.json",
        "matrices.json",
        "clock.json.1b4e.part",
    )
    for id in (running, paused, cancelled, "of another database"):
        for name in names:
            (tmp_path / id / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / id / name).write_text("")

    cleanup.sweep(store, tmp_path, DAY)

    for id in (running, "of another database"):
        assert all((tmp_path / id / name).is_file() for name in names)
    for id in (paused, cancelled):
        left = sorted(str(file.relative_to(tmp_path / id)) for file in (tmp_path / id).rglob("*"))
        assert left == ["matrices.json"]


def test_what_is_half_written_and_cannot_be_removed_is_tried_again(
    store: Store, make_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (tmp_path / store.submissions.create_job(make_spec()).id / "model.tmp" for _ in range(2))
    for folder in (first, second):
        folder.mkdir(parents=True)
    usual = shutil.rmtree

    def fail_once(folder: Path) -> None:
        monkeypatch.setattr(shutil, "rmtree", usual)
        raise PermissionError(folder)

    monkeypatch.setattr(shutil, "rmtree", fail_once)
    cleanup.sweep(store, tmp_path, DAY)
    assert first.exists() != second.exists()
    cleanup.sweep(store, tmp_path, DAY)
    assert not any(folder.exists() for folder in (first, second))
