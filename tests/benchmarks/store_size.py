"""How long the store takes to answer when it is full: 10,000 jobs and 1,000,000 candidates.

    .venv/bin/python tests/benchmarks/store_size.py [--jobs 10000] [--candidates 1000000] [--url postgresql://…]

Half of the candidates are one job's, the others are spread evenly; one in five was scored on all search examples, and
200 of the largest job's are on its front, more than a search has at its 13 sizes.
Prints the median time and this process's processor time: on a machine with other work, only the latter says what a
query costs, and of PostgreSQL it says only the client's part.
Without a URL the store is a SQLite file in a temporary folder. A database that is given must be empty, and is left
full.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random

from sample_jobs import sample_job
from sqlalchemy import insert, select

from ranksieve.service.job.job import JobState
from ranksieve.service.server.keys import Scope
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store
from ranksieve.service.store.schema import CandidateRow, FrontRow, JobRow, LabelRow

ROUNDS = 21
LARGEST_FRONT = 200
CHUNK = 10_000
START = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = JobSpec.model_validate(sample_job("sentiment"))


def job_id(number: int) -> str:
    return f"{number:024x}"


def fill(store: Store, jobs: int, candidates: int) -> None:
    spec = SPEC.canonical()
    states = [JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED]
    with store.database.writing() as session:
        for start in range(0, jobs, CHUNK):
            session.execute(
                insert(JobRow),
                [
                    {
                        "id": job_id(number),
                        "owner": f"user{number % 20}",
                        "spec": {**spec, "labels": {"team": f"team{number % 100}"}},
                        "state": states[number % 3].value if number else JobState.SEARCHING.value,
                        "cancel_requested": False,
                        "created_at": START + timedelta(minutes=number),
                        "event_count": 0,
                    }
                    for number in range(start, min(start + CHUNK, jobs))
                ],
            )
        labels = [
            {"job_id": job_id(number), "name": "team", "value": f"team{number % 100}"}
            for number in range(jobs)
        ]
        session.execute(insert(LabelRow), labels)
    genome, rng = [16] * 210, Random(0)
    for start in range(0, candidates, CHUNK):
        with store.database.writing() as session:
            session.execute(
                insert(CandidateRow),
                [
                    {
                        "job_id": job_id(0 if number % 2 else number % jobs),
                        "generation": number // 100,
                        "genome": genome,
                        "kept_share": (share := rng.random()),
                        "loss_nats": 1 - share + 0.2 * rng.random(),
                        "tokens": 2048,
                        "seconds": 0.5,
                    }
                    for number in range(start, min(start + CHUNK, candidates))
                ],
            )


def fill_front(store: Store, job: str) -> None:
    """Puts the largest job's best scorings of as many sizes on its front."""
    full = select(CandidateRow.id, CandidateRow.kept_share, CandidateRow.loss_nats, CandidateRow.generation)
    full = full.where(CandidateRow.job_id == job)
    with store.database.writing() as session:
        best: dict[int, tuple[int, float, float, int]] = {}
        for one in session.execute(full):
            size = int(one[1] * LARGEST_FRONT)
            if size not in best or one[2] < best[size][2]:
                best[size] = one
        names = ("candidate_id", "kept_share", "loss_nats", "since")
        members = [{"job_id": job, **dict(zip(names, one, strict=True))} for one in best.values()]
        session.execute(insert(FrontRow), members)


def milliseconds(query: Callable[[], object]) -> tuple[float, float]:
    """The medians of several runs: time, and this process's processor time."""
    taken, spent = [], []
    for _ in range(ROUNDS):
        started, busy = time.perf_counter(), time.process_time()
        query()
        taken.append(time.perf_counter() - started)
        spent.append(time.process_time() - busy)
    return statistics.median(taken) * 1000, statistics.median(spent) * 1000


def save(store: Store, job: str, number: int) -> None:
    """Saves a generation of 24 scorings."""
    rng, epoch = Random(number), store.job(job).epoch
    scorings = [
        {
            "generation": number, "genome": [16] * 210, "ranks": [16] * 210,
            "kept_share": (share := rng.random()), "kl_nats": 1 - share, "loss_nats": 1 - share, "drop_points": 1.0,
            "drop_bound": 2.0, "metric": 0.8, "tokens": 2048, "seconds": 0.5, "failure": None,
        }
        for index in range(24)
    ]  # fmt: skip
    store.runs.save_generation(job, {"generation": number}, scorings, {"next": number}, epoch=epoch)


def measure(url: str, jobs: int, candidates: int) -> None:
    store = Store(url)
    fill(store, jobs, candidates)
    fill_front(store, job_id(0))
    numbers = itertools.count(candidates)
    [middle] = (row["id"] for row in store.candidates(job_id(0), limit=1, generation=candidates // 400))
    _, token = store.keys.create("user1", Scope.READ)
    last = candidates // 100 - 1
    queries: dict[str, Callable[[], object]] = {
        "newest 50 jobs": lambda: store.jobs(),
        "50 jobs from the middle": lambda: store.jobs(after=job_id(jobs // 2)),
        "50 jobs of one owner": lambda: store.seen_by("user1").jobs(),
        "50 failed jobs": lambda: store.jobs(states=[JobState.FAILED]),
        "50 jobs of a label that 1 % have": lambda: store.jobs(labels=["team:team7"]),
        "jobs of a label that none has": lambda: store.jobs(labels=["team:none"]),
        "one job": lambda: store.job(job_id(0)),
        "jobs by state": lambda: store.count_jobs(),
        "what to claim": lambda: store.claims.claim_next(),
        "first 100 candidates of the largest job": lambda: store.candidates(job_id(0)),
        "its last generation": lambda: store.candidates(job_id(0), generation=last),
        "its 100 after one in the middle": lambda: store.candidates(job_id(0), after=middle),
        "its front": lambda: store.front(job_id(0)),
        "its front, halfway": lambda: store.front(job_id(0), last=last // 2),
        "100 of its front": lambda: store.front(job_id(0), limit=100),
        "saving one more generation of it": lambda: save(store, job_id(0), next(numbers)),
        "who is asking": lambda: store.keys.find(token),
    }
    print("| query | median, ms | processor, ms |\n|---|---:|---:|")
    for name, query in queries.items():
        taken, spent = milliseconds(query)
        print(f"| {name} | {taken:.1f} | {spent:.1f} |", flush=True)
    store.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--url")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments.url or f"sqlite:///{folder}/jobs.db", arguments.jobs, arguments.candidates)


if __name__ == "__main__":
    main()
