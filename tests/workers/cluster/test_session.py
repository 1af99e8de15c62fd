"""Runs against a real Ray."""

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import ray
import torch
from ray.exceptions import RayActorError

from ranksieve.search.errors import CancelledError, InfrastructureError, InputError
from ranksieve.workers.cluster.crew import reason_of
from ranksieve.workers.cluster.phases import MOST_DEATHS
from ranksieve.workers.cluster.session import Cluster
from ranksieve.workers.cluster.shares import Share
from ranksieve.workers.factors.preparation import closed_form
from ranksieve.workers.factors.prepared import PreparationPlan, Prepared, load_factors
from ranksieve.workers.types.plan import EncodedTask
from ranksieve.workers.types.progress import Progress

pytestmark = pytest.mark.usefixtures("cluster")


class Run:
    """Runs phases and keeps what they told."""

    def __init__(self, cluster: Cluster, make_share: Callable[..., Share]) -> None:
        self._cluster = cluster
        self._make_share = make_share
        self.cancelled = threading.Event()
        self.progress: list[Progress] = []

    def __call__(
        self,
        phase: object,
        *arguments: object,
        environment: dict[str, str] | None = None,
        workers: int = 1,
        limit: int | None = None,
    ) -> object:
        self.share = self._make_share(limit or workers)
        return self._cluster.run(
            phase,  # type: ignore[arg-type]
            *arguments,
            share=self.share,
            cancelled=self.cancelled,
            on_progress=self.on_progress,
            environment=environment,
            workers=workers,
        )

    def on_progress(self, progress: Progress) -> None:
        self.progress.append(progress)


def enter(
    cluster: Cluster, actors: int = 1, threads: int = 1, gpus: float = 0
) -> AbstractContextManager[Share]:
    """A job's share of the cluster."""
    return cluster.share(
        "a",
        actors=actors,
        threads=threads,
        gpus=gpus,
        priority=0,
        cancelled=threading.Event(),
        on_held=lambda held: None,
        on_notice=lambda reason: None,
    )


@pytest.fixture
def run(cluster: Cluster, make_share: Callable[..., Share]) -> Run:
    return Run(cluster, make_share)


def test_phase_tells_its_progress_and_returns_its_last_item(run: Run) -> None:
    def phase(count: int) -> Iterator[Progress | str]:
        for done in range(count):
            yield Progress(phase="count", done=done, total=count)
        yield f"counted to {count}"

    assert run(phase, 3) == "counted to 3"
    assert run.progress == [Progress(phase="count", done=done, total=3) for done in range(3)]


def test_a_cluster_that_runs_answers(cluster: Cluster) -> None:
    assert cluster.answers() is True


def test_dead_node_is_the_machines_fault(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", dict)  # as Ray answers once its raylet was killed
    with pytest.raises(InfrastructureError, match="Ray is gone"), enter(cluster):
        pass


@pytest.mark.parametrize(
    ("raised", "kind", "told"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "/cache/x"),
            OSError,
            "No space left on device: '/cache/x'",
        ),
        (InputError("model.path", "is bad"), InputError, "is bad"),
        (ZeroDivisionError("by zero"), ZeroDivisionError, "by zero"),
        (
            torch.OutOfMemoryError("2.00 GiB"),
            InfrastructureError,
            "phase phase: out of .*take fewer resources",
        ),
        (
            torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"),
            InfrastructureError,
            "phase phase lost its accelerator: CUDA error: uncorrectable",
        ),
    ],
    ids=["disk", "user", "code", "memory", "accelerator"],
)
def test_an_error_of_a_worker_says_whose_fault_it_is(
    run: Run, raised: Exception, kind: type[Exception], told: str
) -> None:
    def phase() -> Iterator[Progress]:
        yield Progress(phase="check", done=int(os.environ["GOMP_SPINCOUNT"]), total=1)
        raise raised

    with pytest.raises(kind, match=told) as caught:
        run(phase)
    for name in ("errno", "field"):
        assert getattr(caught.value, name, None) == getattr(raised, name, None)
    assert run.progress[0].done < 10_000  # threads that wait give way to other work


def test_unreadable_input_is_the_machines_fault(run: Run) -> None:
    def phase() -> Iterator[Progress]:
        yield Progress(phase="model", done=0, total=1)
        try:
            raise OSError(errno.ESTALE, "Stale file handle", "/models/x")
        except OSError as error:
            raise InputError("model.path", f"cannot load the weights: {error}") from error

    with pytest.raises(InfrastructureError, match=r"Stale file handle: '/models/x'; fix it"):
        run(phase)


def test_an_actor_that_could_not_start_says_why(cluster: Cluster) -> None:
    @ray.remote
    class Starved:
        def __init__(self) -> None:
            raise InfrastructureError("3.1 of 79.1 GiB free; use fewer actors per GPU")

        def ping(self) -> None:
            pass

    with pytest.raises(RayActorError) as caught:
        ray.get(Starved.remote().ping.remote())  # type: ignore[attr-defined]
    assert reason_of(caught.value).endswith("3.1 of 79.1 GiB free; use fewer actors per GPU")


@pytest.mark.campaign
def test_dying_workers_are_not_replaced_for_ever(run: Run, tmp_path: Path) -> None:
    def phase(folder: Path) -> Iterator[Progress | str]:
        yield Progress(phase="start", done=0, total=1)
        (folder / str(os.getpid())).touch()
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(InfrastructureError, match="the worker of phase phase died"):
        run(phase, tmp_path, workers=2)
    assert 2 <= len(list(tmp_path.iterdir())) <= 2 + MOST_DEATHS


def test_workers_come_and_go_with_the_share_and_one_that_dies_is_replaced(run: Run, tmp_path: Path) -> None:
    def phase(folder: Path) -> Iterator[Progress | str]:
        for name in ("first", "dies", "hangs"):
            with suppress(FileExistsError):
                (folder / name).touch(exist_ok=False)
                break
        if name == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "hangs":
            yield Progress(phase="work", done=2, total=3)
            threading.Event().wait()
        yield Progress(phase="work", done=1, total=3)
        (folder / "pipe").read_text()
        yield "done"

    def on_progress(progress: Progress) -> None:
        run.progress.append(progress)
        if progress.done == 1:
            run.share.change(limit=2, priority=0)  # another one joins and dies, and one in its place hangs
        if progress.done == 2:
            assert run.share.held == 2
            run.share.change(limit=1, priority=0)
            (tmp_path / "pipe").write_text("go on")

    os.mkfifo(tmp_path / "pipe")
    run.on_progress = on_progress  # type: ignore[method-assign]
    assert run(phase, tmp_path, workers=2, limit=1) == "done"
    assert [progress.done for progress in run.progress] == [1, 2]
    assert run.share.held == 1


def test_cancelling_ends_a_phase_at_once(run: Run, tmp_path: Path) -> None:
    def phase(pid_file: Path) -> Iterator[Progress]:
        pid_file.write_text(str(os.getpid()))
        yield Progress(phase="hang", done=0, total=1)
        threading.Event().wait()

    run.on_progress = lambda _: run.cancelled.set()  # type: ignore[method-assign]
    with pytest.raises(CancelledError, match="cancelled"):
        run(phase, tmp_path / "pid")


def test_cluster_must_hold_one_actor(cluster: Cluster) -> None:
    with enter(cluster, actors=4096) as share:
        share.use(4096)
        while share.take():
            pass
        assert share.held == ray.cluster_resources()["CPU"]
    with pytest.raises(InputError) as caught, enter(cluster, threads=1000):
        pass
    assert caught.value.field == "resources.threads_per_actor"
    assert "one actor needs 1000 CPU, but the largest node has" in caught.value.message
    with pytest.raises(InputError) as caught, enter(cluster, gpus=1000):
        pass
    assert caught.value.field == "resources.gpus_per_actor"


def test_embedded_cluster_has_a_token_of_its_own(cluster: Cluster) -> None:
    cluster.connect()  # does nothing when connected
    assert ray.is_initialized()
    assert len(os.environ["RAY_AUTH_TOKEN"]) >= 32


@pytest.fixture(scope="module")
def sharded_plan(preparation_plan: PreparationPlan, make_task: Callable[..., EncodedTask]) -> PreparationPlan:
    """Several shards of many small examples, with labels that are drawn."""
    task = make_task("lm")
    examples = task.splits["calibration"] * 150
    many = replace(task, splits={**task.splits, "calibration": examples})
    return replace(preparation_plan, task=many, batch_tokens=512, workers=2)


@pytest.fixture(scope="module")
def alone(sharded_plan: PreparationPlan, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Prepared by one worker, in this process."""
    *_, prepared = closed_form(replace(sharded_plan, cache_dir=tmp_path_factory.mktemp("alone"), workers=1))
    assert isinstance(prepared, Prepared)
    return prepared


def assert_same_factors(prepared: object, expected: Prepared) -> None:
    assert isinstance(prepared, Prepared)
    ours, theirs = load_factors(prepared.factors), load_factors(expected.factors)
    assert ours.keys() == theirs.keys()
    assert all(ours[name][side].equal(theirs[name][side]) for name in ours for side in (0, 1))
    assert all((one == other).all() for one, other in zip(prepared.energies, expected.energies, strict=True))


def test_two_workers_make_the_factors_of_one(
    run: Run, sharded_plan: PreparationPlan, alone: Prepared, tmp_path: Path
) -> None:
    def phase(plan: PreparationPlan, folder: Path) -> Iterator[Progress | Prepared]:
        at_work = False
        for item in closed_form(plan):
            if not at_work and isinstance(item, Progress) and item.phase == "calibration":
                at_work = True
                try:
                    (folder / "first").touch(exist_ok=False)
                except FileExistsError:
                    (folder / "pipe").write_text("both have a shard")
                else:
                    (folder / "pipe").read_text()  # goes on when the other one has a shard, too
            yield item

    os.mkfifo(tmp_path / "pipe")
    cache_dir = tmp_path / "cache"
    prepared = run(phase, replace(sharded_plan, cache_dir=cache_dir), tmp_path, workers=2)
    assert_same_factors(prepared, alone)
    assert prepared.factors.name == alone.factors.name  # type: ignore[attr-defined]
    calibration = [item for item in run.progress if item.phase == "calibration"]
    assert [item.done for item in calibration] == sorted({item.done for item in calibration})
    assert calibration[-1].done == calibration[-1].total
    assert sorted(folder.name.split("-")[0] for folder in cache_dir.glob("*-*/")) == ["factors", "model"]


def test_a_worker_killed_between_batches_changes_nothing(
    run: Run, sharded_plan: PreparationPlan, alone: Prepared, tmp_path: Path
) -> None:
    def phase(plan: PreparationPlan) -> Iterator[Progress | Prepared]:
        for item in closed_form(plan):
            yield item
            if isinstance(item, Progress) and item.phase == "calibration" and item.done > 0.3 * item.total:
                try:
                    (plan.cache_dir / "killed").touch(exist_ok=False)
                except FileExistsError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)

    prepared = run(phase, replace(sharded_plan, cache_dir=tmp_path), workers=2)
    assert (tmp_path / "killed").exists()
    assert_same_factors(prepared, alone)


@pytest.mark.campaign
def test_what_a_killed_run_has_done_is_not_done_again(
    run: Run, sharded_plan: PreparationPlan, alone: Prepared, tmp_path: Path
) -> None:
    def phase(plan: PreparationPlan) -> Iterator[Progress | Prepared]:
        for item in closed_form(plan):
            yield item
            if isinstance(item, Progress) and item.phase == "calibration" and item.done > 0.7 * item.total:
                os.kill(os.getpid(), signal.SIGKILL)

    plan = replace(sharded_plan, cache_dir=tmp_path)
    with pytest.raises(InfrastructureError, match="the worker of phase phase died"):
        run(phase, plan)
    run.progress.clear()
    assert_same_factors(run(closed_form, plan), alone)
    first, *_ = (item for item in run.progress if item.phase == "calibration")
    assert first.done > 0.4 * first.total
