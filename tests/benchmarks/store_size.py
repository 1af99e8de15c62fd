"""How long the store takes to answer when it is full: 10,000 jobs and 1,000,000 candidates.

    .venv/bin/python tests/benchmarks/store_size.py [--jobs 10000] [--candidates 1000000] [--url postgresql://…]

Half of the candidates are one job's, the others are spread evenly; one in five was scored on all search examples.
Without a URL the store is a SQLite file in a temporary folder. A database that is given must be empty, and is left
full.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random

from sqlalchemy import insert

from service.jobs import JobState
from service.keys import Scope
from service.spec import JobSpec
from service.store import Store
from service.store.schema import CandidateRow, JobRow, LabelRow

ROUNDS = 21
CHUNK = 10_000
START = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = JobSpec.model_validate(
    {
        "name": "sentiment",
        "model": {"path": "models/tiny"},
        "task": {
            "kind": "choice",
            "prompt": "Review: {{ text }}\nSentiment:",
            "answer": "{{ label }}",
            "choices": ["positive", "negative"],
            "data": {"source": {"path": "reviews.jsonl"}},
        },
    }
)


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
                        "examples": 64 if number % 5 else 256,
                        "genome": genome,
                        "kept_share": (share := rng.random()),
                        "loss_nats": 1 - share + 0.2 * rng.random(),
                        "tokens": 2048,
                        "seconds": 0.5,
                    }
                    for number in range(start, min(start + CHUNK, candidates))
                ],
            )


def milliseconds(query: Callable[[], object]) -> float:
    """The median of several runs."""
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        query()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1000


def measure(url: str, jobs: int, candidates: int) -> None:
    store = Store(url)
    fill(store, jobs, candidates)
    _, token = store.keys.create("user1", Scope.READ)
    last = candidates // 100 - 1
    queries: dict[str, Callable[[], object]] = {
        "newest 50 jobs": lambda: store.jobs(),
        "50 jobs from the middle": lambda: store.jobs(after=job_id(jobs // 2)),
        "50 jobs of one owner": lambda: store.seen_by("user1").jobs(),
        "50 failed jobs": lambda: store.jobs(state=JobState.FAILED),
        "50 jobs of a label that 1 % have": lambda: store.jobs(labels={"team": "team7"}),
        "jobs of a label that none has": lambda: store.jobs(labels={"team": "none"}),
        "jobs of the oldest hour": lambda: store.jobs(before=START + timedelta(hours=1)),
        "one job": lambda: store.job(job_id(0)),
        "jobs by state": lambda: store.count_jobs(),
        "what to claim": lambda: store.claim_next(),
        "first 100 candidates of the largest job": lambda: store.candidates(job_id(0)),
        "its last generation": lambda: store.candidates(job_id(0), generation=last),
        "its 100 in the middle": lambda: store.candidates(job_id(0), offset=candidates // 4),
        "its front": lambda: store.front(job_id(0)),
        "who is asking": lambda: store.keys.find(token),
    }
    print("| query | median, ms |\n|---|---:|")
    for name, query in queries.items():
        print(f"| {name} | {milliseconds(query):.1f} |")
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
