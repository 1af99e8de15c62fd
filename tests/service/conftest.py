"""A small job file, a tiny model, a store, and a way to wait for what another thread commits."""

import itertools
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sample_jobs import sample_job
from tiny_job import CONFIG, mood_task, save_model

from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store
from ranksieve.workers.types.plan import EncodedTask, Example, Row, Span

WaitUntil = Callable[[Callable[[], bool]], None]
MakeDatabase = Callable[[], str]

HANGS_S = 60
"""What did not come about in so long never will; no claim about speed."""


@pytest.fixture(scope="session", autouse=True)
def _fast_commits(unsynced_sqlite: Callable[..., None]) -> None:
    """Make commits of every store in this process take no time."""


@pytest.fixture
def make_task() -> Callable[[Any], EncodedTask]:
    """Makes a task of a kind: 40 records to search, 600 to confirm, 6 of calibration; answers are of two tokens."""
    row = Row(ids=(1, 2, 3), spans=(Span(choice=0, start=0, ids=(2, 3)),))
    example = Example(rows=(row,), choices=2, label=0, prompt_ids=(1,))
    sizes = {"search": 40, "confirm": 600, "calibration": 6}

    def make(kind: Any) -> EncodedTask:
        splits = {name: (example,) * size for name, size in sizes.items()}
        return EncodedTask(kind=kind, splits=splits, max_new_tokens=1, digest="", split_digests={})

    return make


@pytest.fixture
def make_spec() -> Callable[..., JobSpec]:
    """Makes a valid, settled spec that names no file that has to exist."""

    def make(name: str = "sentiment", **labels: str) -> JobSpec:
        return JobSpec.model_validate(sample_job(name, **labels))

    return make


@pytest.fixture
def make_candidate() -> Callable[..., dict[str, Any]]:
    """Makes a scoring as the pipeline saves it."""

    def make(generation: int, *genome: int, failure: str | None = None) -> dict[str, Any]:
        scored = failure is None
        return {
            "generation": generation,
            "genome": list(genome),
            "ranks": [16 * level for level in genome],
            "kept_share": 0.4,
            "kl_nats": 0.05 if scored else None,
            "loss_nats": 0.04 if scored else None,
            "drop_points": 1.5 if scored else None,
            "drop_bound": 2.5 if scored else None,
            "metric": 0.78 if scored else None,
            "tokens": 2048,
            "seconds": 0.5,
            "failure": failure,
        }

    return make


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model/`, of random weights, and 200 records in `films.jsonl`."""
    root = tmp_path_factory.mktemp("tiny")
    save_model(root / "model")
    records = [{"text": f"film {i}", "label": "good" if i % 2 else "bad"} for i in range(200)]
    (root / "films.jsonl").write_text("\n".join(map(json.dumps, records)))
    return root


@pytest.fixture(scope="session")
def tiny_mixture(tiny_root: Path) -> str:
    """A folder beside `model/` with a mixture of four experts a block, of random weights; its name."""
    import torch
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    folder = tiny_root / "mixture"
    shutil.copytree(tiny_root / "model", folder)
    torch.manual_seed(0)
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12}
    Qwen3MoeForCausalLM(Qwen3MoeConfig(**CONFIG | experts)).save_pretrained(folder)
    return folder.name


@pytest.fixture
def tiny_job() -> dict[str, Any]:
    """A spec on the tiny model; its paths count from `tiny_root`."""
    return {
        "model": {"path": "model", "dtype": "float32"},
        "task": mood_task({"calibration": 8, "search": 16, "confirm": 32, "test": 64}),
        "policy": {
            "rank_step": 1,
            "search": {
                "population": 3, "offspring": 4, "generations": 3,
                "max_evaluations": 60, "patience": 20,
            },
        },
        "objective": {"kind": "target_params", "share": 0.4},
        "resources": {"actors": 1, "gpus_per_actor": 0},
    }  # fmt: skip


@pytest.fixture
def make_database(request: pytest.FixtureRequest, tmp_path: Path) -> MakeDatabase:
    """Makes empty databases without tables; returns their URLs. On SQLite, or on the backend of an indirect parameter.

    Tests run on both where these differ, see `databases.ON_EACH`.
    """
    if getattr(request, "param", "sqlite") == "postgresql":
        create: MakeDatabase = request.getfixturevalue("postgres").create
        return create
    numbers = itertools.count()
    return lambda: f"sqlite:///{tmp_path / f'jobs-{next(numbers)}.db'}"


@pytest.fixture
def store_url(make_database: MakeDatabase) -> str:
    """An empty database."""
    return make_database()


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """An empty store."""
    store = Store(store_url)
    yield store
    store.close()


@pytest.fixture
def wait_until(store: Store) -> WaitUntil:
    """Waits until a condition on the store holds, looking again after each commit; gives up where it hangs."""
    committed = threading.Condition()

    def notify(_job_id: str) -> None:
        with committed:
            committed.notify_all()

    def wait(condition: Callable[[], bool]) -> None:
        with committed:
            assert committed.wait_for(condition, timeout=HANGS_S), f"not reached within {HANGS_S} s"

    store.base.listener = notify
    return wait
