"""A small job file, a store on every backend, and a way to wait for what another thread commits."""

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from service.spec import JobSpec
from service.store import Store
from service.store.schema import Base

SERVER_URL = os.environ.get("RANKSIEVE_TEST_DATABASE_URL", "")
"""An empty PostgreSQL database; where it is given, every store test runs on it too and empties it after."""

WaitUntil = Callable[[Callable[[], bool]], None]


@pytest.fixture
def make_spec() -> Callable[..., JobSpec]:
    """Makes a valid spec that names no file that has to exist."""

    def make(name: str = "sentiment", **labels: str) -> JobSpec:
        return JobSpec.model_validate(
            {
                "name": name,
                "labels": labels,
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

    return make


@pytest.fixture
def make_candidate() -> Callable[..., dict[str, Any]]:
    """Makes a scoring as the pipeline saves it."""

    def make(generation: int, *genome: int, failure: str | None = None) -> dict[str, Any]:
        scored = failure is None
        return {
            "generation": generation,
            "examples": 64,
            "genome": list(genome),
            "kept_share": 0.4,
            "kl_nats": 0.05 if scored else None,
            "drop_points": 1.5 if scored else None,
            "metric": 0.78 if scored else None,
            "tokens": 2048,
            "seconds": 0.5,
            "failure": failure,
        }

    return make


@pytest.fixture(params=["sqlite", *(["server"] if SERVER_URL else [])])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database on each backend that stores are promised for: one more param, one more backend."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'jobs.db'}"
        return
    yield SERVER_URL
    engine = create_engine(SERVER_URL)
    with engine.begin() as connection:
        Base.metadata.drop_all(connection)
        connection.execute(text("DROP TABLE IF EXISTS alembic_version"))
    engine.dispose()


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """An empty store."""
    store = Store(store_url)
    yield store
    store.close()


@pytest.fixture
def wait_until(store: Store) -> WaitUntil:
    """Waits until a condition on the store holds, looking again after each commit."""
    committed = threading.Condition()

    def notify(_job_id: str) -> None:
        with committed:
            committed.notify_all()

    def wait(condition: Callable[[], bool]) -> None:
        with committed:
            assert committed.wait_for(condition, timeout=10), "not reached within 10 s"

    store.listener = notify
    return wait
