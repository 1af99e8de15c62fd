"""Controllers on a store, and jobs for them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ranksieve.service.run.controller import Controller
from ranksieve.service.run.run import Pipeline
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import LEASE_S, Store

StartController = Callable[..., Controller]
Submit = Callable[..., dict[str, str]]


@pytest.fixture
def start_controller(store: Store, tmp_path: Path) -> Iterator[StartController]:
    """Starts controllers, and stops whatever still runs at the end."""
    started: list[Controller] = []

    def start(pipeline: Pipeline, on: Store = store, lease_s: float = LEASE_S, **options: Any) -> Controller:
        controller = Controller(on, pipeline, tmp_path / "jobs", lease_s=lease_s, **options)
        started.append(controller)
        controller.start()
        return controller

    yield start
    for controller in started:
        controller.stop()


@pytest.fixture
def submit(store: Store, make_spec: Callable[..., JobSpec]) -> Submit:
    """Queues jobs by name, with priorities; returns their ids by name."""

    def submit(*names: str, **priorities: int) -> dict[str, str]:
        specs = {
            name: make_spec(name).model_copy(update={"priority": priorities.get(name, 0)})
            for name in (*names, *priorities)
        }
        return {name: store.submissions.create_job(spec).id for name, spec in specs.items()}

    return submit
