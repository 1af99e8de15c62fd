"""What an owner may see: their own jobs as everybody else sees them, and nothing at all of the others'."""

from collections.abc import Callable
from typing import Any

import pytest

from search.errors import InputError, NotFoundError
from service.jobs import JobState
from service.spec import JobSpec
from service.store import Store, View

MakeSpec = Callable[..., JobSpec]

LOOKS: dict[str, Callable[[View, str], Any]] = {
    "job": lambda view, id: view.job(id),
    "events": lambda view, id: view.events(id),
    "generations": lambda view, id: view.generations(id),
    "candidates": lambda view, id: view.candidates(id),
    "memo": lambda view, id: view.memo(id),
    "search_state": lambda view, id: view.search_state(id),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_foreign_job_is_not_there(
    store: Store, make_spec: MakeSpec, look: Callable[[View, str], Any]
) -> None:
    job = store.create_job(make_spec(), "alice")
    store.save_generation(job.id, {"generation": 0}, [], {"next": 1}, epoch=job.epoch)

    assert look(store.seen_by("alice"), job.id) == look(store.seen_by(None), job.id) == look(store, job.id)
    with pytest.raises(NotFoundError, match=f"there is no job '{job.id}'"):
        look(store.seen_by("bob"), job.id)


def test_every_look_at_a_job_is_tried_above() -> None:
    public = {name for name in vars(View) if not name.startswith("_")}

    assert public == {*LOOKS, "jobs"}


def test_lists_hold_ones_own_jobs(store: Store, make_spec: MakeSpec) -> None:
    owners = ["alice", "bob", "alice", "alice"]
    ids = [store.create_job(make_spec(), owner).id for owner in owners]
    mine = store.seen_by("alice")

    assert [job.id for job in mine.jobs()] == [ids[3], ids[2], ids[0]]
    assert [job.id for job in mine.jobs(limit=1, after=ids[2])] == [ids[0]]
    assert [job.id for job in store.seen_by("bob").jobs(state=JobState.QUEUED)] == [ids[1]]
    assert [job.owner for job in store.seen_by(None).jobs()] == owners[::-1]
    assert store.seen_by("carol").jobs() == []


def test_a_foreign_job_is_not_cancelled(store: Store, make_spec: MakeSpec) -> None:
    job = store.create_job(make_spec(), "alice")

    with pytest.raises(NotFoundError):
        store.request_cancel(job.id, "bob")

    assert store.job(job.id) == job
    assert store.request_cancel(job.id, "alice").state is JobState.CANCELLED


def test_a_page_goes_on_after_an_id(store: Store) -> None:
    with pytest.raises(InputError, match="after: must be the id of a job"):
        store.jobs(after="\0")
