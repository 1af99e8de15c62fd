"""Whole jobs on the tiny model. Those that several tests look at run once."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from local_jobs import Document, Finished, Jobs, finish, shorten
from tuning import front

from ranksieve.service.server.settings import Settings
from ranksieve.service.store import Store
from ranksieve.workers.cost import latency_measurement
from ranksieve.workers.export import verification

Once = Callable[..., Finished]


@pytest.fixture
def _unsynced_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let files not wait for the disk, which matters after a power cut alone."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture
def make_jobs(
    tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, _unsynced_files: None
) -> Iterator[Callable[[Path], Jobs]]:
    """Makes jobs that are run by hand, in a folder."""
    # A real verification runs in a process of its own, which is told this by its environment.
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    made = []

    def make(folder: Path) -> Jobs:
        settings = Settings(data_dir=folder, roots=[tiny_root])
        settings.data_dir.mkdir()
        made.append(Jobs(Store(settings.store_url), settings))
        return made[-1]

    yield make
    for jobs in made:
        jobs.store.close()


@pytest.fixture
def jobs(make_jobs: Callable[[Path], Jobs], tmp_path: Path) -> Jobs:
    """Jobs that are run by hand."""
    return make_jobs(tmp_path / "data")


@pytest.fixture(scope="session")
def _finished() -> dict[str, Finished]:
    return {}


@pytest.fixture
def once(
    _finished: dict[str, Finished],
    make_jobs: Callable[[Path], Jobs],
    tmp_path_factory: pytest.TempPathFactory,
) -> Once:
    """Runs the job of a name the first time that a test asks for it."""

    def run(name: str, document: Document, make_timer: Any = None) -> Finished:
        if name not in _finished:
            folder = tmp_path_factory.mktemp(name) / "data"
            _finished[name] = finish(make_jobs(folder), document, make_timer)
        return _finished[name]

    return run


@pytest.fixture
def undisturbed(once: Once, tiny_job: Document) -> Finished:
    """The tiny job, finished."""
    return once("undisturbed", tiny_job)


@pytest.fixture
def archive(once: Once, tiny_job: Document) -> Finished:
    """A finished job for a front, with candidates of many sizes."""
    front(smallest=0.3, sizes=4, finalists=2)
    tiny_job["objective"] = {"kind": "pareto", "points": 100.0}
    tiny_job["policy"]["kl_weight"] = 1.0  # the likelihood of random labels knows no size
    tiny_job["policy"]["search"]["generations"] = 1
    return once("archive", tiny_job)


@pytest.fixture
def fast(tiny_job: Document, monkeypatch: pytest.MonkeyPatch) -> Document:
    """A job for a latency; FLOPs are the same in every round."""
    monkeypatch.setattr(latency_measurement, "ROUNDS", 1)
    monkeypatch.setattr(verification, "LATENCY_ROUNDS", 1)
    tiny_job["objective"] = {"kind": "target_latency", "share": 0.7}
    return tiny_job


@pytest.fixture
def timed(once: Once, fast: Document, make_flop_timer: Any) -> Finished:
    """The job for a latency, finished."""
    return once("timed", fast, make_flop_timer)


@pytest.fixture
def max_drop(tiny_job: Document) -> Document:
    """A job for a drop."""
    tiny_job["objective"] = {"kind": "max_drop", "points": 30.0}
    return tiny_job


@pytest.fixture
def short_job(tiny_job: Document) -> Document:
    """The tiny job without generations after its seeds."""
    return shorten(tiny_job)
