"""Runs against a real Ray, with actors that import no torch: they start in a moment."""

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray

from ranksieve.search.errors import CancelledError, InfrastructureError, InputError, NoRoomError, ScoringError
from ranksieve.search.space.matrix import DENSE
from ranksieve.workers.cluster import breaker, crew
from ranksieve.workers.cluster.dispatcher import Dispatcher, _expected_cost
from ranksieve.workers.cluster.packing import Place
from ranksieve.workers.cluster.session import Cluster
from ranksieve.workers.cluster.shares import Share
from ranksieve.workers.types.scores import Failure, ScoreRequest, Scores

LONG_S, KILLED_WITHIN_S = 60.0, 10

SLOW_START, HELD, HANGS = "slow start", "held", "hangs"  # names of files
FAULTY_STARTS = 3  # as many failures would make a request suspect


@pytest.fixture(autouse=True)
def _short_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ranksieve.workers.cluster.breaker.REST_S", 0.01)


def request(word: str, index: int = 0) -> ScoreRequest:
    """What the fake actor does is in `split`; `start` tells requests apart."""
    return ScoreRequest(ranks=(1,), split=word, start=index, stop=index + 1)


def fine(count: int) -> list[ScoreRequest]:
    return [request("fine", index) for index in range(count)]


@pytest.fixture
def start_fake(cluster: Cluster, tmp_path: Path) -> Callable[..., Any]:
    """Starts actors that score, die, hang or raise as their requests say."""

    class FakeActor:  # local, so that Ray sends it by value
        def __init__(self, folder: Path, fate: str = "") -> None:
            self._folder, self._fate = folder, fate
            if fate == "wait":
                (folder / "pipe").read_text()
            if fate == "faulty start":
                raise OSError("no memory on this device")
            self._beliefs: object = None
            if (folder / SLOW_START).exists():
                threading.Event().wait(3.0)

        def pid(self) -> int:
            return os.getpid()

        def set_beliefs(self, beliefs: object) -> None:
            if self._fate == "no beliefs":
                raise OSError("they cannot be fetched")
            self._beliefs = beliefs

        def score(self, request: ScoreRequest) -> Any:
            word = "always die" if self._fate == "always die" else request.split
            first_time = self._first_time(request)
            if request.ranks == (DENSE,) and word in {"die", "hang"}:
                word = "fine"  # these two are what a candidate does, not its examples
            if word in {"die", "always die"} or (word == "die once" and first_time):
                os.kill(os.getpid(), signal.SIGKILL)
            if word == "hang" or (word == "hang once" and first_time):
                (self._folder / HANGS).write_text(str(os.getpid()))
                threading.Event().wait()
            while word == HELD and not (self._folder / HELD).exists():
                threading.Event().wait(0.02)
            if word == "brief":
                threading.Event().wait(0.01)
            if word == "bad input":
                raise InputError("task.prompt", "is bad")
            if word == "bug":
                raise ZeroDivisionError("by zero")
            if word == "illegal access once" and first_time:
                from torch import AcceleratorError  # here, so that no other test waits for torch

                raise AcceleratorError("CUDA error: an illegal memory access was encountered")
            if word == "beliefs":
                return self._beliefs
            value = np.array([float(request.start)])
            return Scores(
                quality=value,
                exact=value,
                nll_nats=value,
                kl_nats=value,
                answer_tokens=value,
                tokens=1,
                seconds=0.0,
            )

        def score_dense(self, request: ScoreRequest) -> tuple[str, int]:
            if request.split == "always die":
                os.kill(os.getpid(), signal.SIGKILL)
            if request.split == "no memory":
                raise MemoryError
            return "dense", request.start

        def _first_time(self, request: ScoreRequest) -> bool:
            try:
                (self._folder / f"{request.split}-{request.start}").touch(exist_ok=False)
            except FileExistsError:
                return False
            return True

    remote = ray.remote(max_restarts=0, max_task_retries=0, num_cpus=0)(FakeActor)
    return lambda fate="": remote.remote(tmp_path, "" if isinstance(fate, Place) else fate)


class Job:
    """A dispatcher of fake actors and what it told."""

    def __init__(self, start: Callable[[Any], Any], share: Share, timeout_s: float) -> None:
        self.share = share
        self.cancelled = threading.Event()
        self.replaced: list[tuple[int, str]] = []
        self.dispatcher = Dispatcher(
            start,
            share,
            timeout_s=timeout_s,
            cancelled=self.cancelled,
            on_replaced=lambda actor, reason: self.replaced.append((actor, reason)),
        )

    def run(self, *requests: ScoreRequest, **options: Any) -> list[Any]:
        return self.dispatcher.run("score", requests, **options)


@pytest.fixture
def make_job(
    start_fake: Callable[..., Any], make_share: Callable[..., Share]
) -> Iterator[Callable[..., Job]]:
    jobs: list[Job] = []

    def make(size: int = 1, timeout_s: float = LONG_S, start: Callable[[Any], Any] = start_fake) -> Job:
        jobs.append(Job(start, make_share(size), timeout_s))
        return jobs[-1]

    yield make
    for job in jobs:
        job.dispatcher.close()


def starts(results: list[Any]) -> list[float]:
    assert all(isinstance(result, Scores) for result in results)
    return [float(result.quality[0]) for result in results]


def test_results_are_in_request_order(make_job: Callable[..., Job]) -> None:
    job, done = make_job(3), []
    requests = [
        ScoreRequest(ranks=(rank,), split="fine", start=index, stop=index + 1)
        for index, rank in enumerate([3, 9, -1, 1, 9])
    ]
    assert starts(job.run(*requests, on_done=done.append)) == [0, 1, 2, 3, 4]
    assert done == [1, 2, 3, 4, 5]
    assert job.dispatcher.run("score_dense", requests[:2]) == [("dense", 0), ("dense", 1)]
    assert job.run() == []
    assert job.replaced == []


def test_an_actor_that_lost_its_accelerator_is_replaced(make_job: Callable[..., Job]) -> None:
    job = make_job()
    assert starts(job.run(request("illegal access once", 3), *fine(2))) == [3, 0, 1]
    reason = "lost its accelerator: CUDA error: an illegal memory access was encountered"
    assert job.replaced == [(0, reason)]


def test_a_deadline_is_noticed_while_others_answer_without_a_pause(make_job: Callable[..., Job]) -> None:
    job, replaced = make_job(2, timeout_s=1.5), []
    brief = [request("brief", start) for start in range(300)]
    results = job.run(request("hang once", 7), *brief, on_done=lambda _: replaced.append(len(job.replaced)))
    assert starts(results) == [7, *range(300)]
    assert replaced[len(brief) - 1] == 1
    assert [reason for _, reason in job.replaced] == ["missed its deadline of 1.5 s"]


@pytest.mark.campaign
def test_request_that_always_hangs_is_a_failure(make_job: Callable[..., Job]) -> None:
    job = make_job(timeout_s=2.0)
    (failure,) = job.run(request("hang"))
    assert failure == Failure(reason="3 actors in a row: the actor missed its deadline of 2 s")
    assert len(job.replaced) == 3
    assert starts(job.run(*fine(1))) == [0]


def test_no_deadline_runs_while_an_actor_starts(make_job: Callable[..., Job], tmp_path: Path) -> None:
    (tmp_path / SLOW_START).touch()
    job = make_job(timeout_s=1.0)
    assert starts(job.run(*fine(2))) == [0, 1]
    assert not job.replaced


def test_request_that_always_kills_is_a_failure_and_the_rest_is_scored(make_job: Callable[..., Job]) -> None:
    job = make_job(2)
    killed, *others = job.run(request("die"), *fine(4))
    assert isinstance(killed, Failure)
    assert killed.reason.startswith("3 actors in a row: the actor died: ")
    assert starts(others) == [0, 1, 2, 3]
    assert len(job.replaced) == 3


@pytest.mark.campaign
def test_candidates_that_kill_together_are_failures(
    make_job: Callable[..., Job],
) -> None:
    job = make_job(2)
    one, other, *fine_ones = job.run(request("die", 0), request("die", 1), *fine(2))
    assert [type(one), type(other)] == [Failure, Failure]
    assert starts(fine_ones) == [0, 1]
    assert len(job.replaced) >= 6  # three each, and one more where another actor's word was asked for


def test_an_actor_on_a_broken_node_fails_no_candidate(
    start_fake: Callable[..., Any], make_job: Callable[..., Job], tmp_path: Path
) -> None:
    numbers = itertools.count()
    os.mkfifo(tmp_path / "pipe")

    def start(_: Any) -> Any:
        """The second one works, but is not up before the first one has failed."""
        if (number := next(numbers)) == 2:
            (tmp_path / "pipe").write_text("it has failed")
        return start_fake("wait" if number == 1 else "always die")

    job = make_job(2, start=start)
    assert starts(job.run(*fine(4))) == [0, 1, 2, 3]
    assert {actor for actor, _ in job.replaced} == {0}


def test_an_actor_that_does_not_start_fails_no_candidate(
    start_fake: Callable[..., Any], make_job: Callable[..., Job]
) -> None:
    fates = itertools.chain(["faulty start"] * FAULTY_STARTS, itertools.repeat(""))
    job = make_job(start=lambda _: start_fake(next(fates)))
    assert starts(job.run(*fine(2))) == [0, 1]
    assert len(job.replaced) == FAULTY_STARTS


@pytest.mark.parametrize("method", ["score", "score_dense"])
def test_actors_that_all_die_are_the_machines_fault(
    method: str, make_job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (breaker, crew):
        monkeypatch.setattr(module, "FAILURES", 1)  # `test_breaker` has the others
    with pytest.raises(InfrastructureError, match="failed more than 1 times in a row, the last one died"):
        make_job().dispatcher.run(method, [request("always die")])


def test_cancelling_ends_at_once_and_kills_what_runs(make_job: Callable[..., Job], tmp_path: Path) -> None:
    job, hangs = make_job(2), tmp_path / HANGS

    def cancel(_: int) -> None:
        while not hangs.exists():
            threading.Event().wait(0.02)
        job.cancelled.set()

    with pytest.raises(CancelledError, match="cancelled"):
        job.run(request("hang"), *fine(1), on_done=cancel)
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(hangs.read_text())).wait(KILLED_WITHIN_S)
    assert job.replaced == []


def test_a_job_whose_last_node_has_gone_does_not_wait_for_its_actors(make_job: Callable[..., Job]) -> None:
    job = make_job(2)

    def remove_nodes(_: int) -> None:
        job.share._sharing.set_nodes({"other": {"GPU": 10_000}})

    with pytest.raises(NoRoomError, match="has left the cluster"):
        job.run(request("hang"), *fine(1), on_done=remove_nodes)


def test_two_jobs_at_once_get_the_answers_of_their_own_actors(
    make_job: Callable[..., Job], tmp_path: Path
) -> None:
    one, other = make_job(), make_job()
    with ThreadPoolExecutor() as pool:
        held = pool.submit(one.run, request(HELD, 7), request("fine", 8))
        results = other.run(*fine(3), on_done=lambda _: (tmp_path / HELD).touch())
        assert starts(held.result(LONG_S)) == [7, 8]
    assert starts(results) == [0, 1, 2]
    assert one.replaced == other.replaced == []


def test_errors_of_an_actor_say_whose_fault_they_are(make_job: Callable[..., Job]) -> None:
    job = make_job()
    with pytest.raises(InputError) as caught:
        job.run(request("bad input"))
    assert (caught.value.field, caught.value.message) == ("task.prompt", "is bad")
    with pytest.raises(ScoringError, match="scoring raised ZeroDivisionError: by zero"):
        job.run(request("bug"))
    with pytest.raises(InfrastructureError, match=r"the dense model ran out of memory: .*; free some"):
        job.dispatcher.run("score_dense", [request("no memory")])


@pytest.mark.parametrize(
    "fates", [("no beliefs",), ("", "no beliefs")], ids=["while it is up", "as it starts"]
)
def test_an_actor_that_does_not_get_the_beliefs_is_replaced(
    start_fake: Callable[..., Any], make_job: Callable[..., Job], fates: tuple[str, ...]
) -> None:
    fate = itertools.chain(fates, itertools.repeat(""))
    job = make_job(start=lambda _: start_fake(next(fate)))
    assert starts(job.run(*fine(1))) == [0]
    job.dispatcher.set_beliefs({"search": 5})
    job.run(*([request("die once")] if len(fates) > 1 else []))
    assert job.run(request("beliefs")) == [{"search": 5}]
    assert job.replaced[-1] == (0, "failed before its work: OSError: they cannot be fetched")


def test_a_stream_ends_when_nothing_runs_and_there_is_nothing_to_take(make_job: Callable[..., Job]) -> None:
    job = make_job(2)
    assert list(job.dispatcher.stream("score", lambda idle: [])) == []
    waiting, results = [1, 2, 3], dict[int, Any]()

    def take(idle: int) -> list[tuple[int, ScoreRequest]]:
        if not waiting or len(results) + len(waiting) < 3:  # the next one only when the last one is done
            return []
        key = waiting.pop(0)
        return [(key, request("die once" if key == 3 else "fine", key))]

    for key, result in job.dispatcher.stream("score", take):
        results[key] = result
    assert starts([results[key] for key in (1, 2, 3)]) == [1, 2, 3]
    assert len(job.replaced) == 1


def test_a_job_that_gets_more_actors_uses_them_while_another_works(make_job: Callable[..., Job]) -> None:
    job, waiting = make_job(), [request("hang"), *fine(3)]

    def take(idle: int) -> list[tuple[str, ScoreRequest]]:
        assert 0 < idle <= job.share.held
        taken = [waiting.pop(0) for _ in range(idle) if waiting]
        job.share.change(limit=2, priority=0)
        return [(f"{one.split} {one.start}", one) for one in taken]

    stream = job.dispatcher.stream("score", take)
    assert [next(stream)[0] for _ in range(3)] == ["fine 0", "fine 1", "fine 2"]
    assert job.share.held == 2


def test_an_actor_that_is_taken_finishes_its_work_and_ends(
    make_job: Callable[..., Job], tmp_path: Path
) -> None:
    job, held = make_job(3), []
    waiting = [*(request(HELD, index) for index in range(3)), *(request("fine", index) for index in (3, 4))]

    def take(idle: int) -> list[tuple[int, ScoreRequest]]:
        taken = [waiting.pop(0) for _ in range(idle) if waiting]
        if taken and taken[-1].start == 2:  # all three are at work
            job.share.change(limit=1, priority=0)
            (tmp_path / HELD).touch()
        return [(one.start, one) for one in taken]

    results = {}
    for key, result in job.dispatcher.stream("score", take):
        results[key] = result
        held.append(job.share.held)

    assert starts([results[key] for key in range(5)]) == [0, 1, 2, 3, 4]
    assert held == [3, 2, 1, 1, 1]
    assert job.replaced == []


def test_an_actor_that_fails_is_the_first_to_be_taken(
    start_fake: Callable[..., Any], make_job: Callable[..., Job], tmp_path: Path
) -> None:
    fates = itertools.chain(["always die"], itertools.repeat(""))
    job = make_job(2, start=lambda _: start_fake(next(fates)))

    def take_one(actor: int, reason: str) -> None:
        job.share.change(limit=1, priority=0)
        # until then the other one does not get far, however long this one took to start
        (tmp_path / HELD).touch()

    job.dispatcher._crew._on_replaced = take_one
    assert starts(job.run(*(request(HELD, index) for index in range(4)))) == [0, 1, 2, 3]
    assert job.dispatcher._crew.up() == [1]
    assert job.share.held == 1


def test_expensive_requests_come_first() -> None:
    cheap = ScoreRequest(ranks=(5, 5), split="search", start=0, stop=10)
    costly = ScoreRequest(ranks=(5, 50), split="search", start=0, stop=10)
    longer = ScoreRequest(ranks=(5, 50), split="search", start=0, stop=20)
    dense = ScoreRequest(ranks=(-1, 0), split="search", start=0, stop=20)
    assert sorted([dense, costly, longer, cheap], key=_expected_cost) == [cheap, costly, longer, dense]
