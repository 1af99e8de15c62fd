"""What an owner may see: their own jobs as everybody else sees them, and nothing at all of the others'."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from databases import ON_EACH

from ranksieve.search.errors import ConflictError, InputError, NotFoundError
from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import JobState, Request
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store, View
from ranksieve.service.store.progress import PhaseProgress
from ranksieve.service.store.schema import EventRow

MakeSpec = Callable[..., JobSpec]
MakeCandidate = Callable[..., dict[str, Any]]

LOOKS: dict[str, Callable[[View, str], Any]] = {
    "job": lambda view, id: view.job(id),
    "events": lambda view, id: view.events(id),
    "follow": lambda view, id: view.follow(id),
    "last_event": lambda view, id: view.last_event(id, EventType.JOB_STATE),
    "progress": lambda view, id: view.progress(id),
    "generations": lambda view, id: view.generations(id),
    "exports": lambda view, id: view.exports(id),
    "candidate": lambda view, id: view.candidate(id, view.candidates(id)[0]["id"]),
    "candidates": lambda view, id: view.candidates(id),
    "front": lambda view, id: view.front(id),
    "memo": lambda view, id: view.memo(id),
    "search_state": lambda view, id: view.search_state(id),
}


@ON_EACH
def test_a_foreign_job_is_not_there(store: Store, make_spec: MakeSpec, make_candidate: MakeCandidate) -> None:
    job = store.submissions.create_job(make_spec(), "alice")
    store.runs.save_generation(
        job.id, {"generation": 0}, [make_candidate(0, 1)], {"next": 1}, epoch=job.epoch
    )

    for look in LOOKS.values():
        assert (
            look(store.seen_by("alice"), job.id) == look(store.seen_by(None), job.id) == look(store, job.id)
        )
        with pytest.raises(NotFoundError, match=f"there is no job '{job.id}'"):
            look(store.seen_by("bob"), job.id)


def test_every_look_at_a_job_is_tried_above() -> None:
    public = {name for name in vars(View) if not name.startswith("_")}

    assert public == {*LOOKS, "jobs", "count_jobs"}  # these take no job: they leave out what is not there


def test_only_the_jobs_that_are_there_are_counted(store: Store, make_spec: MakeSpec) -> None:
    for owner in ("alice", "alice", "bob"):
        store.submissions.create_job(make_spec(), owner)

    assert store.count_jobs() == {JobState.QUEUED: 3}
    store.claims.claim_next()
    assert store.count_jobs() == {JobState.QUEUED: 2, JobState.VALIDATING: 1}
    assert store.seen_by("bob").count_jobs() == {JobState.QUEUED: 1}


def test_the_last_event_is_the_newest_of_its_type(store: Store, make_spec: MakeSpec) -> None:
    job = store.submissions.create_job(make_spec())
    for done in (1, 2):
        store.runs.append_event(job.id, EventType.PHASE_PROGRESS, {"done": done}, epoch=job.epoch)
    store.runs.append_event(job.id, EventType.DATA_LOADED, {}, epoch=job.epoch)

    found = store.last_event(job.id, EventType.PHASE_PROGRESS)

    assert found is not None
    assert (found.seq, found.data) == (3, {"done": 2})
    assert store.last_event(job.id, EventType.LATENCY_MEASURED) is None


@ON_EACH
def test_progress_is_that_of_the_phase_under_way(store: Store, make_spec: MakeSpec) -> None:
    job = store.submissions.create_job(make_spec())

    def told(**data: Any) -> None:
        store.runs.append_event(job.id, EventType.PHASE_PROGRESS, data, epoch=job.epoch)

    assert store.progress(job.id) is None
    told(phase="calibration", done=2, total=10)
    assert store.progress(job.id) == PhaseProgress(phase="calibration", done=2, total=10, left_s=None)
    with store.database.writing() as session:
        first = session.get_one(EventRow, (job.id, 2))
        first.at -= timedelta(hours=3)
    told(phase="calibration", done=5, total=10)
    found = store.progress(job.id)
    assert found is not None
    assert (found.done, found.left_s) == (5, pytest.approx(5 * 3600, rel=0.01))
    told(phase="calibration", done=10, total=10)
    assert store.progress(job.id) is None
    told(phase="search", done=1, total=2)
    store.runs.append_event(job.id, EventType.JOB_STATE, {"state": "paused"}, epoch=job.epoch)
    assert store.progress(job.id) is None


@ON_EACH
def test_jobs_are_searched_by_name_owner_and_id(store: Store, make_spec: MakeSpec) -> None:
    films, other = (
        store.submissions.create_job(make_spec(name), owner)
        for name, owner in (("Films 100%", "alice"), ("books", "bob"))
    )

    for search in ("films", "S 100%", "ALI", films.id[:-1]):
        assert [job.id for job in store.jobs(search=search)] == [films.id]
    assert [job.id for job in store.jobs(search="oo")] == [other.id]
    assert store.jobs(search="%") == store.jobs(search="100%") != store.jobs()
    assert store.seen_by("bob").jobs(search="films") == store.jobs(search="1_0") == []


def test_lists_hold_ones_own_jobs(store: Store, make_spec: MakeSpec) -> None:
    owners = ["alice", "bob", "alice", "alice"]
    ids = [store.submissions.create_job(make_spec(), owner).id for owner in owners]
    mine = store.seen_by("alice")

    assert [job.id for job in mine.jobs()] == [ids[3], ids[2], ids[0]]
    assert [job.id for job in mine.jobs(limit=1, after=ids[2])] == [ids[0]]
    assert [job.id for job in store.seen_by("bob").jobs(states=[JobState.QUEUED])] == [ids[1]]
    assert [job.owner for job in store.seen_by(None).jobs()] == owners[::-1]
    assert store.seen_by("carol").jobs() == []


@ON_EACH
def test_jobs_are_listed_by_their_labels(store: Store, make_spec: MakeSpec) -> None:
    both = store.submissions.create_job(make_spec(team="nlp", stage="test run: 'a' % \\"))
    team = store.submissions.create_job(make_spec(team="nlp"))
    store.submissions.create_job(make_spec(team="vision"))
    store.submissions.create_job(make_spec())

    assert [job.id for job in store.jobs(labels=["team:nlp"])] == [team.id, both.id]
    assert [job.id for job in store.jobs(labels=["team:nlp", "stage:test run: 'a' % \\"])] == [both.id]
    assert store.jobs(labels=["team:nlp", "team:vision"]) == []
    assert (
        store.jobs(labels=["te:nlp"])
        == store.jobs(labels=["a.b[0]:nlp"])
        == store.jobs(labels=["team"])
        == []
    )
    with pytest.raises(InputError, match="label: must not hold NUL"):
        store.jobs(labels=["\0:nlp"])


def test_any_colon_of_a_label_may_be_the_one_between_name_and_value(
    store: Store, make_spec: MakeSpec
) -> None:
    first = store.submissions.create_job(make_spec(**{"a:b": "c"}))
    second = store.submissions.create_job(make_spec(a="b:c"))

    assert [job.id for job in store.jobs(labels=["a:b:c"])] == [second.id, first.id]


def test_a_label_that_nobody_would_look_for_is_kept_all_the_same(store: Store, make_spec: MakeSpec) -> None:
    labels = {"quoted": "\"'%_\\", "\"'%_\\": "quoted", "team": "nlp"}

    job = store.submissions.create_job(make_spec(**labels))

    assert store.job(job.id).labels == labels
    assert store.jobs(labels=["team:nlp"]) == [job]


@ON_EACH
def test_a_job_that_has_ended_is_deleted_with_all_that_happened_to_it(
    store: Store, make_spec: MakeSpec, make_candidate: Callable[..., Any]
) -> None:
    job, other = store.submissions.create_job(make_spec()), store.submissions.create_job(make_spec())
    for one in (job, other):
        store.runs.save_generation(
            one.id, {"generation": 0}, [make_candidate(0, 1)], {"next": 1}, epoch=one.epoch
        )
    with pytest.raises(ConflictError, match=f"job {job.id} is queued; cancel it before it is deleted"):
        store.submissions.delete_job(job.id)
    store.user_requests.ask(job.id, Request.CANCEL)

    store.submissions.delete_job(job.id)

    for look in LOOKS.values():
        with pytest.raises(NotFoundError):
            look(store, job.id)
    assert len(store.memo(other.id)) == 1


def test_a_foreign_job_is_not_deleted(store: Store, make_spec: MakeSpec) -> None:
    job = store.submissions.create_job(make_spec(), "alice")
    store.user_requests.ask(job.id, Request.CANCEL)

    with pytest.raises(NotFoundError):
        store.submissions.delete_job(job.id, "bob")
    store.submissions.delete_job(job.id, "alice")


def test_a_submission_sent_again_makes_no_second_job(store: Store, make_spec: MakeSpec) -> None:
    assert store.submissions.submitted(make_spec(), "alice", "k1") is None
    job = store.submissions.create_job(make_spec(), "alice", "k1")

    assert store.submissions.submitted(make_spec(), "alice", "k1") == job
    assert store.submissions.create_job(make_spec(), "alice", "k1") == job
    with pytest.raises(ConflictError, match=f"'k1' was used for job {job.id}, whose spec is another one"):
        store.submissions.create_job(make_spec("other"), "alice", "k1")
    others = [("alice", "k2"), ("bob", "k1"), ("alice", None), ("alice", None)]
    ids = {store.submissions.create_job(make_spec(), owner, key).id for owner, key in others}
    assert len({job.id, *ids}) == 5


@ON_EACH
def test_submissions_that_come_at_once_make_one_job(store: Store, make_spec: MakeSpec) -> None:
    together = threading.Barrier(6)

    def submit(_: int) -> str:
        together.wait()
        return store.submissions.create_job(make_spec(), "alice", "k1").id

    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(submit, range(6)))) == 1


def test_a_foreign_job_is_not_cancelled(store: Store, make_spec: MakeSpec) -> None:
    job = store.submissions.create_job(make_spec(), "alice")

    with pytest.raises(NotFoundError):
        store.user_requests.ask(job.id, Request.CANCEL, "bob")

    assert store.job(job.id) == job
    assert store.user_requests.ask(job.id, Request.CANCEL, "alice").state is JobState.CANCELLED


@ON_EACH
def test_a_page_goes_on_after_an_id(store: Store) -> None:
    with pytest.raises(InputError, match="after: must be the id of a job"):
        store.jobs(after="\0")
