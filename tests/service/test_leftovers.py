import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from service import leftovers
from service.jobs import Job, Request
from service.spec import JobSpec
from service.store import Store

MakeSpec = Callable[..., JobSpec]


@pytest.fixture
def deleted(store: Store, make_spec: MakeSpec, tmp_path: Path) -> Job:
    """A job that the store has forgotten, with files."""
    job = store.create_job(make_spec())
    store.request(job.id, Request.CANCEL)
    (tmp_path / job.id / "artifacts").mkdir(parents=True)
    (tmp_path / job.id / "artifacts" / "report.json").write_text("{}")
    store.delete_job(job.id)
    return job


def test_what_is_left_of_deleted_jobs_goes_and_nothing_else(
    store: Store, deleted: Job, make_spec: MakeSpec, tmp_path: Path
) -> None:
    kept = [store.create_job(make_spec()).id, "of another database"]
    for name in kept:
        (tmp_path / name).mkdir()

    leftovers.sweep(store, tmp_path)

    assert sorted(folder.name for folder in tmp_path.iterdir() if folder.is_dir()) == sorted(kept)
    assert store.removals() == []


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
        leftovers.remove(store, tmp_path, deleted.id)
    assert (
        f"job {deleted.id} was deleted, but not yet its files, which are tried again: read-only"
        in caplog.text
    )
    assert store.removals() == [deleted.id]

    leftovers.sweep(store, tmp_path)
    assert not (tmp_path / deleted.id).exists()
    assert store.removals() == []


def test_two_servers_may_remove_the_same_files(
    store: Store, deleted: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = shutil.rmtree

    def meet(folder: Path) -> None:
        monkeypatch.setattr(shutil, "rmtree", usual)
        shutil.rmtree(folder / "artifacts")
        raise FileNotFoundError(folder / "artifacts")

    monkeypatch.setattr(shutil, "rmtree", meet)
    leftovers.remove(store, tmp_path, deleted.id)
    assert not (tmp_path / deleted.id).exists()
    assert store.removals() == []
