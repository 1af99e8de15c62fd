"""The contract of a job store."""

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from databases import ON_EACH
from sqlalchemy import text

from ranksieve.search.errors import ConflictError, LimitError, NotFoundError, StoreError
from ranksieve.service.job.changes import JobChanges
from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import Job, JobState, Request
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store
from ranksieve.service.store.times import database_time

MakeSpec = Callable[..., JobSpec]
MakeCandidate = Callable[..., dict[str, Any]]
Claim = Callable[..., Job]


@ON_EACH
def test_created_job_is_queued_and_read_back_as_it_was(store: Store, make_spec: MakeSpec) -> None:
    spec = make_spec("reviews", team="nlp")

    job = store.submissions.create_job(spec)

    assert store.job(job.id) == job
    assert (job.name, job.labels, job.spec) == ("reviews", {"team": "nlp"}, spec)
    assert (job.state, job.cancel_requested) == (JobState.QUEUED, False)
    assert (job.started_at, job.finished_at, job.error, job.result) == (None, None, None, None)
    assert job.created_at.tzinfo is UTC
    assert [(event.seq, event.data) for event in store.events(job.id)] == [(1, {"state": "queued"})]


@ON_EACH
def test_jobs_are_listed_newest_first_in_pages(store: Store, make_spec: MakeSpec) -> None:
    ids = [store.submissions.create_job(make_spec(str(number))).id for number in range(5)]

    first = store.jobs(limit=3)
    second = store.jobs(limit=3, after=first[-1].id)

    assert [job.id for job in first + second] == ids[::-1]


def test_jobs_are_listed_by_state(store: Store, make_spec: MakeSpec) -> None:
    queued, running = store.submissions.create_job(make_spec()), store.submissions.create_job(make_spec())
    store.runs.transition(running.id, JobState.VALIDATING, epoch=running.epoch)

    assert [job.id for job in store.jobs(states=[JobState.QUEUED])] == [queued.id]
    assert [job.id for job in store.jobs(states=[JobState.VALIDATING])] == [running.id]
    assert store.jobs(states=[JobState.FAILED]) == []
    both = store.jobs(states=[JobState.FAILED, JobState.VALIDATING, JobState.QUEUED])
    assert {job.id for job in both} == {queued.id, running.id}


def test_an_unknown_job_is_not_found(store: Store) -> None:
    for ask in (
        store.job,
        store.events,
        store.generations,
        store.candidates,
        store.memo,
        store.search_state,
        partial(store.user_requests.ask, request=Request.CANCEL),
    ):
        with pytest.raises(NotFoundError, match="there is no job 'none'"):
            ask("none")


def test_a_job_is_known_by_its_key_after_a_change(store: Store, make_spec: MakeSpec) -> None:
    job = store.submissions.create_job(make_spec("as submitted"), idempotency_key="k")
    changed = store.user_requests.change(job.id, JobChanges(name="new"))

    assert store.submissions.create_job(make_spec("as submitted"), idempotency_key="k") == changed
    with pytest.raises(ConflictError):
        store.submissions.create_job(make_spec("new"), idempotency_key="k")


def test_a_submission_that_is_repeated_has_no_need_of_room(store: Store, make_spec: MakeSpec) -> None:
    job = store.submissions.create_job(make_spec("one"), idempotency_key="k", most_queued=1)

    assert store.submissions.create_job(make_spec("one"), idempotency_key="k", most_queued=1) == job
    with pytest.raises(LimitError):
        store.submissions.create_job(make_spec("two"), idempotency_key="l", most_queued=1)


def test_the_listener_hears_of_what_is_committed(
    store: Store, make_spec: MakeSpec, make_candidate: MakeCandidate
) -> None:
    heard: list[tuple[str, int]] = []
    store.base.listener = lambda id: heard.append((id, store.events(id)[-1].seq))

    store.submissions.create_job(make_spec())
    job = store.claims.claim_next()
    assert job is not None
    store.runs.append_event(job.id, EventType.DATA_LOADED, {"splits": {"search": 8}}, epoch=job.epoch)
    store.runs.save_generation(job.id, {"generation": 0}, [make_candidate(0, 16)], {}, epoch=job.epoch)
    store.user_requests.ask(job.id, Request.CANCEL)
    store.runs.transition(job.id, JobState.CANCELLED, epoch=job.epoch)
    with pytest.raises(ConflictError):
        store.runs.transition(job.id, JobState.FAILED, epoch=job.epoch)

    assert heard == [(job.id, seq) for seq in range(1, 6)]


@ON_EACH
def test_the_front_is_what_no_smaller_model_beats(
    store: Store, make_spec: MakeSpec, make_candidate: MakeCandidate
) -> None:
    rng = Random(0)
    shares = [rng.randrange(1, 30) / 30 for _ in range(200)]
    points = [(share, round(1 - share + rng.randrange(10) / 20, 3)) for share in shares]
    rows = [
        make_candidate(0, number) | {"kept_share": share, "loss_nats": loss}
        for number, (share, loss) in enumerate(points)
    ]
    rows[7] |= {"loss_nats": None, "kl_nats": points[7][1]}  # of a time before there was another loss
    failed = make_candidate(0, 901, failure="out of memory") | {"kept_share": 0.0}
    job, other = store.submissions.create_job(make_spec()), store.submissions.create_job(make_spec())
    store.runs.save_generation(job.id, {"generation": 0}, [failed, *rows], {}, epoch=job.epoch)
    store.runs.save_generation(other.id, {"generation": 0}, [rows[0]], {}, epoch=other.epoch)

    expected = [
        number
        for number, (share, loss) in enumerate(points)
        if not any(
            kept <= share and lost <= loss and ((kept, lost) != (share, loss) or earlier < number)
            for earlier, (kept, lost) in enumerate(points)
        )
    ]
    front = store.front(job.id)
    assert [row["genome"] for row in front] == [[i] for i in sorted(expected, key=lambda i: points[i][0])]
    assert len(front) > 5
    assert store.front(job.id, limit=2) == front[:2]
    assert store.front(job.id, generation=0) == front
    assert store.front(job.id, generation=1) == []
    assert [row["genome"] for row in store.front(other.id)] == [[0]]
    assert front[0]["id"] in [row["id"] for row in store.candidates(job.id, limit=300)]


@ON_EACH
def test_the_databases_clock_is_close_to_ours(store: Store) -> None:
    with store.database.reading() as session:
        now = database_time(session)

    assert abs(datetime.now(UTC) - now) < timedelta(minutes=1)


def test_a_database_that_fails_is_a_failure_of_the_store(tmp_path: Path, make_spec: MakeSpec) -> None:
    store = Store(f"sqlite:///{tmp_path / 'jobs.db'}")
    with store.database.writing() as session:
        session.execute(text("DROP TABLE jobs"))

    with pytest.raises(StoreError, match=r"^the job store failed: OperationalError: no such table: jobs$"):
        store.submissions.create_job(make_spec("secret"))


def test_a_database_that_cannot_be_opened_is_named_with_what_to_do(
    tmp_path: Path, make_spec: MakeSpec
) -> None:
    file = tmp_path / "no such folder" / "jobs.db"

    with pytest.raises(StoreError) as caught:
        Store(f"sqlite:///{file}").submissions.create_job(make_spec("secret"))

    assert str(caught.value) == (
        f"the job store sqlite:///{file} cannot be opened: OperationalError: unable to open database file; let user "
        f"{os.geteuid()} write to its folder, or give another RANKSIEVE_DATA_DIR or RANKSIEVE_DATABASE_URL"
    )


def test_a_server_of_databases_that_is_not_there_is_named_without_a_password() -> None:
    with pytest.raises(StoreError) as caught:
        Store("postgresql://me:s3cret@127.0.0.1:1/jobs").open()

    message = str(caught.value)
    assert message.startswith("the job store postgresql")
    assert "me:[redacted]@127.0.0.1:1/jobs cannot be opened: OperationalError: connection" in message
    assert message.endswith("; see that it runs and lets this server in")
    assert "s3cret" not in message
