"""The front that is kept while a job grows is the one that would be found among all its scorings."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from databases import ON_EACH

from ranksieve.service.job.job import Job
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store
from ranksieve.service.store.fronts import Front

GENERATIONS = 12


@pytest.fixture
def grown(
    store: Store, make_spec: Callable[..., JobSpec], make_candidate: Callable[..., dict[str, Any]]
) -> Job:
    """A job of some generations, with ties of size and of loss, beside another one with better scorings."""
    rng = Random(1)
    job, other = store.submissions.create_job(make_spec()), store.submissions.create_job(make_spec())
    for generation in range(GENERATIONS):
        scorings = [
            make_candidate(generation, index)
            | {
                "kept_share": rng.randrange(20) / 20,
                "loss_nats": rng.randrange(100, 140) / 100 - generation / 20,
            }
            for index in range(6)
        ]
        record = {"generation": generation}
        store.runs.save_generation(job.id, record, scorings, {}, epoch=job.epoch)
        better = [{**one, "loss_nats": -9.0} for one in scorings]
        store.runs.save_generation(other.id, record, better, {}, epoch=other.epoch)
    return job


def found(store: Store, job: Job, last: int) -> list[dict[str, Any]]:
    """The front after a generation, found among all scorings until then."""
    scored = store.candidates(job.id, limit=1000)
    front: list[dict[str, Any]] = []
    for one in sorted(scored, key=lambda one: (one["kept_share"], one["loss_nats"], one["id"])):
        if one["generation"] <= last and (not front or one["loss_nats"] < front[-1]["loss_nats"]):
            front.append(one)
    return front


@ON_EACH
def test_the_front_is_known_as_it_was_after_every_generation(store: Store, grown: Job) -> None:
    for last in range(GENERATIONS):
        front = store.front(grown.id, last=last)
        assert front == found(store, grown, last)
        added = [one for one in front if one["generation"] == last]
        assert store.front(grown.id, last=last, generation=last) == added
    assert store.front(grown.id) == found(store, grown, GENERATIONS)
    gone = {one["id"] for one in store.front(grown.id, last=0)} - {one["id"] for one in store.front(grown.id)}
    assert gone  # else nothing above was beaten


def test_a_scoring_that_joins_says_whom_it_beats() -> None:
    front = Front()

    assert front.join(1, 0.5, 1.0) == []
    assert front.join(2, 0.5, 1.0) is None  # the first one of equals stays
    assert front.join(3, 0.6, 1.0) is None
    assert front.join(4, 0.7, 0.5) == []
    assert front.join(5, 0.4, 0.5) == [1, 4]
    assert front.join(6, 0.4, 0.4) == [5]
    assert (front.ids, front.kept_shares, front.losses) == ([6], [0.4], [0.4])
