"""Whole jobs for tests, all real but Ray: phases and actors run in this process, one request after another."""

import math
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import TypeAdapter
from tuning import tune

from ranksieve.api.http.schemas.events import EVENT
from ranksieve.api.http.schemas.result import Result
from ranksieve.search.errors import CancelledError, InfrastructureError
from ranksieve.service.application import Application
from ranksieve.service.job import matrices
from ranksieve.service.job.job import Job, JobState, Request
from ranksieve.service.pipeline.pipeline import run_job
from ranksieve.service.run.feed import Feed
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store
from ranksieve.workers.cluster.actor import ScorerPlan, build_scorer
from ranksieve.workers.cluster.packing import amounts
from ranksieve.workers.cluster.shares import Share, Sharing
from ranksieve.workers.machine.limited import run_here
from ranksieve.workers.types.plan import EncodedTask
from ranksieve.workers.types.progress import Progress
from ranksieve.workers.types.scores import ScoreRequest

Document = dict[str, Any]
Meddle = Callable[[ScoreRequest, Any], Any]


class LocalActors:
    """Scores requests one by one in this process; `meddle` may change or refuse what comes out."""

    def __init__(self, scorer: Any, meddle: Meddle, cancelled: threading.Event) -> None:
        self._scorer = scorer
        self._meddle = meddle
        self._cancelled = cancelled
        self.requests: list[ScoreRequest] = []
        self.closed = False

    def run(
        self,
        method: str,
        requests: Sequence[ScoreRequest],
        on_done: Callable[[int], None] = lambda done: None,
    ) -> list[Any]:
        results = []
        for request in requests:
            result = getattr(self._scorer, method)(request)
            if method == "score_dense":
                scores, beliefs = result
                results.append((self._meddle(request, scores), beliefs))
            else:
                results.append(self._meddle(request, result))
            on_done(len(results))
        self.requests += [] if method == "score_dense" else requests
        return results

    def stream(
        self, method: str, take: Callable[[int], Iterable[tuple[Any, ScoreRequest]]]
    ) -> Iterator[tuple[Any, Any]]:
        while taken := list(take(2)):
            for key, request in reversed(taken):  # whoever started last is done first
                if self._cancelled.is_set():
                    raise CancelledError("the job was cancelled")
                (result,) = self.run(method, [request])
                yield key, result

    def set_beliefs(self, beliefs: Any) -> None:
        self._scorer.set_beliefs(beliefs)

    def close(self) -> None:
        self.closed = True


class LocalCluster:
    """Stands in for `workers.cluster.session.Cluster`; runs phases here, and keeps the actors it started."""

    def __init__(self, meddle: Meddle = lambda request, result: result, make_timer: Any = None) -> None:
        self.meddle = meddle
        self.make_timer = make_timer
        self.actors: list[LocalActors] = []
        self.phases: list[str] = []
        self.shares: list[Share] = []

    @contextmanager
    def share(self, job: str, *, actors: int, threads: int, gpus: float, **options: Any) -> Iterator[Share]:
        nodes, size = {"here": amounts(CPU=8)}, amounts(CPU=threads, GPU=gpus)
        with Sharing().enter(job, nodes, size, limit=actors, **options) as share:
            self.shares.append(share)
            yield share

    def run(
        self,
        phase: Callable[..., Iterator[Any]],
        *arguments: Any,
        share: Share,
        cancelled: threading.Event,
        on_progress: Callable[[Progress], None],
        environment: Mapping[str, str] | None = None,
        workers: int = 1,
    ) -> Any:
        self.phases.append(phase.__name__)
        if self.make_timer is not None and phase.__name__ in ("measure_latency", "verify"):
            arguments = (*arguments, self.make_timer)
        item = None
        for item in phase(*arguments):
            if cancelled.is_set():
                raise CancelledError("the job was cancelled")
            if isinstance(item, Progress):
                on_progress(item)
        return item

    run_limited = staticmethod(run_here)

    def dispatcher(self, plan: ScorerPlan, task: EncodedTask, **options: Any) -> LocalActors:
        options["share"].use(math.inf)
        self.actors.append(LocalActors(build_scorer(plan, task), self.meddle, options["cancelled"]))
        return self.actors[-1]


DESCRIBED = TypeAdapter(Result)


class Jobs:
    """A store whose jobs are run by hand."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self.store = store
        self.settings = settings

    def submit(self, spec: Document) -> str:
        return self.store.submissions.create_job(JobSpec.model_validate(tune(spec))).id

    def run(self, cluster: LocalCluster) -> Document:
        """Claim the next job and run it, as the controller does; a job that is cut off can be claimed at once."""
        job = self.store.claims.claim_next(lease_s=0)
        assert job is not None
        self.log = JobLog(self.store, job, self.settings.jobs_dir / job.id)
        result = run_job(self.settings, cluster, job, self.log)  # type: ignore[arg-type]
        self.store.runs.transition(job.id, JobState.SUCCEEDED, epoch=job.epoch, result=result)
        assert DESCRIBED.validate_python(result, extra="forbid") == result, "the API describes another result"
        for event in self.store.events(job.id, limit=10_000):
            EVENT.validate_python(
                {"seq": event.seq, "type": event.type, "at": event.at, "data": event.data}, extra="forbid"
            )
        return result

    def ask(self, id: str, request: Request) -> None:
        """Pass a user's request on to the running pipeline, as the controller does."""
        self.store.claims.renew(id, epoch=self.log.job.epoch)
        self.log.update(self.store.user_requests.ask(id, request))
        self.store.claims.renew(id, lease_s=0, epoch=self.log.job.epoch)

    def export(self, id: str, **asked: Any) -> Job:
        """Ask a job for one more model, as the application does."""
        awake: Any = SimpleNamespace(wake=lambda: None)
        nothing: Any = None
        return Application(self.settings, self.store, awake, Feed(), nothing, nothing).export(id, **asked)

    def events(self, id: str, type: str) -> list[Document]:
        return [event.data for event in self.store.events(id, limit=10_000) if event.type == type]

    def adopt(self, finished: "Finished") -> str:
        """Take over a copy of a finished job, its cache included, with its policy in force; return its id."""
        self.store.close()
        shutil.rmtree(self.settings.data_dir)
        shutil.copytree(finished.data_dir, self.settings.data_dir)
        self.store = Store(self.settings.store_url)
        tune(finished.document)
        return finished.id


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """A job that has succeeded, for tests that only read, or that adopt a copy."""

    data_dir: Path
    document: Document
    id: str
    cluster: LocalCluster
    result: Document
    events: Callable[[str], list[Document]]


def finish(jobs: Jobs, document: Document, make_timer: Any = None) -> Finished:
    """Run a job to its end."""
    id, cluster = jobs.submit(document), LocalCluster(make_timer=make_timer)
    result = jobs.run(cluster)
    events = {
        name: jobs.events(id, name) for name in {event.type for event in jobs.store.events(id, limit=10_000)}
    }
    jobs.store.close()
    return Finished(
        data_dir=jobs.settings.data_dir,
        document=deepcopy(document),
        id=id,
        cluster=cluster,
        result=result,
        events=lambda type: events.get(type, []),
    )


def switch_off(jobs: Jobs, when: Callable[[ScoreRequest], bool], make_timer: Any = None) -> None:
    """Run the next job until the machine fails under the first request that `when` picks."""

    def die(request: ScoreRequest, result: Any) -> Any:
        if when(request):
            raise InfrastructureError("the machine was switched off")
        return result

    with pytest.raises(InfrastructureError, match="switched off"):
        jobs.run(LocalCluster(die, make_timer))


def shorten(document: Document) -> Document:
    """Leave out of a job what its test does not look at: generations after its seeds."""
    document["policy"]["search"]["generations"] = 0
    return document


def essence(result: Document) -> Document:
    """The part of a result that a disturbance must not change."""
    sides = {
        side: {k: v for k, v in result[side].items() if k != "tokens_per_second"}
        for side in ("dense", "best")
    }
    return sides | {
        name: result[name] for name in ("genome", "evaluations", "generations", "search_ended", "tokens")
    }


def winner_of(jobs: Jobs, id: str) -> tuple[Document, int]:
    """Result of a job, and id of the candidate that it exported."""
    result = jobs.store.job(id).result
    assert result is not None
    row = next(row for row in jobs.store.front(id) if row["genome"] == result["genome"])
    return result, row["id"]


def weights(result: Document) -> bytes:
    """The exported weights, byte for byte."""
    return (Path(result["artifact"]) / "model.safetensors").read_bytes()


def forget_a_matrix(directory: Path) -> None:
    """Leave in a job's folder what a version would write that prunes one matrix fewer."""
    matrices.keep(directory, matrices.kept(directory)[:-1])
