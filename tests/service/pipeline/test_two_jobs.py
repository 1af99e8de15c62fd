"""Two whole jobs at once, on a real Ray."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from local_jobs import Document, Jobs, LocalCluster, essence
from tuning import tune

from ranksieve.service.application import Application
from ranksieve.service.job.changes import JobChanges
from ranksieve.service.job.job import JobState
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.service.wiring import build

MOST_S = 400
"""Longest wait for what another thread does, on however busy a machine."""


@pytest.fixture
def two_processors(tiny_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Application]:
    """The whole service, which runs two jobs at once on a real Ray with two processors."""
    monkeypatch.setenv("RAY_OVERRIDE_RESOURCES", '{"CPU": 2}')
    application = build(
        Settings(data_dir=tmp_path / "shared", roots=[tiny_root], running_jobs=2), in_children=False
    )
    application.start()
    yield application
    application.stop()


@pytest.mark.campaign
def test_two_jobs_at_once_on_a_real_ray_find_what_each_finds_alone(
    jobs: Jobs, two_processors: Application, short_job: Document
) -> None:
    short_job["resources"]["actors"] = 2
    short_job["policy"]["search"] |= {"generations": 8, "max_evaluations": 100}
    specs = [short_job | {"seed": seed} for seed in (0, 1)]
    expected = []
    for spec in specs:
        jobs.submit(spec)
        expected.append(jobs.run(LocalCluster()))
    store, news = two_processors.store, threading.Condition()

    def on_event(_id: str) -> None:
        with news:
            news.notify_all()

    def wait(condition: Callable[[], bool]) -> None:
        with news:
            reached = news.wait_for(condition, MOST_S)
        assert reached, [(event.type, event.data) for id in ids for event in store.events(id, limit=1000)]

    store.base.listener = on_event
    ids = [two_processors.submit(JobSpec.model_validate(tune(specs[0]))).id]
    wait(lambda: store.job(ids[0]).state is JobState.SEARCHING)  # with both processors
    ids.append(two_processors.submit(JobSpec.model_validate(tune(specs[1]))).id)
    wait(lambda: store.job(ids[1]).state is JobState.SEARCHING)
    for actors in (1, 2):
        two_processors.controller.change(ids[0], JobChanges(actors=actors))
    wait(lambda: all(store.job(id).state.terminal for id in ids))

    times = []
    for id, alone in zip(ids, expected, strict=True):
        result, events = store.job(id).result, store.events(id, limit=1000)
        assert result is not None
        assert essence(result) == essence(alone)
        moves = {event.data["state"]: event.at for event in events if event.type == "job.state"}
        assert list(moves) == ["queued", "validating", "preparing", "searching", "finalizing", "succeeded"]
        assert "actor.replaced" not in {event.type for event in events}
        times.append(moves)
    assert times[1]["searching"] < times[0]["succeeded"]
