"""How exports come into the store, and how jobs leave it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from databases import ON_EACH

from ranksieve.search.errors import ConflictError, LimitError, NotFoundError
from ranksieve.service.job.export import KNOWN
from ranksieve.service.job.exports import export_of
from ranksieve.service.job.job import Job, JobState, Request
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store

MakeSpec = Callable[..., JobSpec]
MakeCandidate = Callable[..., dict[str, Any]]
Bring = Callable[[Store, Job, JobState], Job]
Claim = Callable[..., Job]
Succeeded = Callable[[JobSpec, list[dict[str, Any]]], Job]


@pytest.fixture
def succeeded(store: Store, bring: Bring) -> Succeeded:
    """A job of Alice's that has ended well, with an archive of these candidates."""

    def succeeded(spec: JobSpec, candidates: list[dict[str, Any]]) -> Job:
        job = store.submissions.create_job(spec, "alice")
        store.runs.save_generation(job.id, {"generation": 0}, candidates, {}, epoch=job.epoch)
        job = bring(store, job, JobState.FINALIZING)
        known: dict[str, Any] = {name: {} for name in KNOWN}
        return store.runs.transition(job.id, JobState.SUCCEEDED, epoch=job.epoch, result=known)

    return succeeded


def test_an_export_is_a_job_of_the_same_owner_that_is_listed_with_its_parent(
    store: Store, make_spec: MakeSpec, make_candidate: MakeCandidate, succeeded: Succeeded
) -> None:
    job = succeeded(make_spec(), [make_candidate(0, 1), make_candidate(0, 2)])
    one, other = (export_of(job, row, {"candidate": row["id"]}) for row in store.candidates(job.id))

    first, second = store.submissions.create_export(job, one), store.submissions.create_export(job, other)

    assert (first.export, first.owner, first.spec, first.state) == (one, "alice", job.spec, JobState.QUEUED)
    assert [export.id for export in store.exports(job.id)] == [second.id, first.id]
    assert store.jobs() == [job]
    assert store.job(second.id).export == other


@ON_EACH
def test_a_candidate_is_exported_again_only_if_that_was_given_up(
    store: Store, make_spec: MakeSpec, make_candidate: MakeCandidate, succeeded: Succeeded
) -> None:
    job = succeeded(make_spec(), [make_candidate(0, 1)])
    export = export_of(job, store.candidates(job.id)[0], {"share": 0.5})
    first = store.submissions.create_export(job, export)
    assert store.submissions.create_export(job, export).id == first.id
    store.user_requests.ask(first.id, Request.CANCEL)
    assert store.submissions.create_export(job, export).id != first.id


@ON_EACH
def test_a_job_is_deleted_after_its_exports(
    store: Store, make_spec: MakeSpec, make_candidate: MakeCandidate, succeeded: Succeeded
) -> None:
    job = succeeded(make_spec(), [make_candidate(0, 1)])
    export = store.submissions.create_export(job, export_of(job, store.candidates(job.id)[0], {"share": 0.5}))

    with pytest.raises(ConflictError, match=f"has an export, {export.id}, which goes first"):
        store.submissions.delete_job(job.id)
    assert (store.job(job.id), store.exports(job.id), store.cleanup.removals()) == (job, [export], [])
    store.user_requests.ask(export.id, Request.CANCEL)
    store.submissions.delete_job(export.id)
    store.submissions.delete_job(job.id)

    assert store.cleanup.removals() == sorted([export.id, job.id])
    with pytest.raises(NotFoundError):
        store.submissions.create_export(job, export_of(job, make_candidate(0, 1) | {"id": 1}, {"share": 0.5}))


@ON_EACH
def test_that_files_are_to_be_removed_is_known_for_a_while_and_as_long_as_they_are_there(
    timed: Store, make_spec: MakeSpec, bring: Bring, advance: Callable[[float], None]
) -> None:
    jobs = [bring(timed, timed.submissions.create_job(make_spec()), JobState.FAILED) for _ in range(2)]
    for job in jobs:
        timed.submissions.delete_job(job.id)

    age = timedelta(hours=1)
    advance(3599)
    timed.cleanup.forget_removals(age, [])
    assert timed.cleanup.removals() == [job.id for job in jobs]
    advance(2)
    for _ in range(2):  # two servers
        timed.cleanup.forget_removals(age, [jobs[1].id])
    assert timed.cleanup.removals() == [jobs[1].id]


def test_an_export_has_no_search_to_stop(
    store: Store, make_spec: MakeSpec, make_candidate: MakeCandidate, claim: Claim, succeeded: Succeeded
) -> None:
    job = succeeded(make_spec(), [make_candidate(0, 1)])
    store.submissions.create_export(job, export_of(job, store.candidates(job.id)[0], {"share": 0.5}))
    export = claim(store)

    with pytest.raises(ConflictError, match="is an export: it searches nothing that could stop"):
        store.user_requests.ask(export.id, Request.STOP)

    assert store.job(export.id) == export
    assert store.user_requests.ask(export.id, Request.PAUSE).pause_requested


def test_exports_count_among_the_queued_jobs_of_an_owner(
    store: Store, make_spec: MakeSpec, make_candidate: MakeCandidate, succeeded: Succeeded
) -> None:
    job = succeeded(make_spec(), [make_candidate(0, 1), make_candidate(0, 2)])
    one, other = (export_of(job, row, {"candidate": row["id"]}) for row in store.candidates(job.id))
    first = store.submissions.create_export(job, one, most_queued=1)
    with pytest.raises(LimitError, match="alice has 1 queued jobs"):
        store.submissions.create_export(job, other, most_queued=1)
    assert store.submissions.create_export(job, one, most_queued=1) == first


@ON_EACH
def test_exports_go_before_jobs_that_wait_and_after_those_cut_off(
    store: Store, make_spec: MakeSpec, make_candidate: MakeCandidate, succeeded: Succeeded
) -> None:
    job = succeeded(make_spec(), [make_candidate(0, 1)])
    cut_off = store.submissions.create_job(make_spec())
    assert store.claims.claim_next(lease_s=0) is not None
    waiting = store.submissions.create_job(make_spec())
    export = store.submissions.create_export(job, export_of(job, store.candidates(job.id)[0], {"share": 0.5}))
    claimed = [store.claims.claim_next() for _ in range(3)]
    assert [one.id for one in claimed if one is not None] == [cut_off.id, export.id, waiting.id]
