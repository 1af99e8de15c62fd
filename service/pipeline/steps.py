"""Steps that jobs and exports share: check, prepare, score, export, verify."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Self

from ranksieve.search.space.space import SearchSpace
from ranksieve.service.job import matrices
from ranksieve.service.job.events import EventType
from ranksieve.service.pipeline import latency, plans
from ranksieve.service.pipeline.checking import check_job
from ranksieve.service.pipeline.scoring import TaskScorer
from ranksieve.service.pipeline.search_plan import SearchPlan, search_plan
from ranksieve.service.policy import EVALUATION_TIMEOUT_S, policy_of
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec, TargetLatency
from ranksieve.workers.cluster.session import Cluster
from ranksieve.workers.cluster.shares import Share
from ranksieve.workers.cost.latency import Latency
from ranksieve.workers.cost.latency_measurement import measure_latency
from ranksieve.workers.cost.speed import dtype_name
from ranksieve.workers.export.verification import Verified, verify
from ranksieve.workers.export.writer import Exported, export
from ranksieve.workers.factors.preparation import closed_form, prepare
from ranksieve.workers.factors.prepared import PreparationPlan, Prepared, Tuned
from ranksieve.workers.model.fetching import fetch
from ranksieve.workers.preflight import Checked
from ranksieve.workers.scoring.tuned import tuned
from ranksieve.workers.types.plan import EncodedTask
from ranksieve.workers.types.progress import Progress
from ranksieve.workers.types.scores import metric_of


class JobSteps:
    """Steps of one job, on its share of the cluster.

    Args:
        settings: Settings of the server.
        cluster: The Ray session.
        share: The job's part of it.
        spec: The job.
        log: Log of the job.
        dtype: Working dtype of all workers, on any node.
    """

    def __init__(
        self, settings: Settings, cluster: Cluster, share: Share, spec: JobSpec, log: JobLog, dtype: str
    ) -> None:
        self._settings, self._cluster, self._share = settings, cluster, share
        self._spec, self._log, self._dtype = spec, log, dtype

    @classmethod
    @contextmanager
    def on(
        cls, cluster: Cluster, settings: Settings, spec: JobSpec, log: JobLog, dtype: str | None = None
    ) -> Iterator[Self]:
        """Hold a job's share of the cluster and its cache entries for the block.

        Raises:
            InputError: The cluster does not hold even one of the job's actors.
            InfrastructureError: There is no cluster.
            CancelledError: The job is to end before there was room for it.
        """
        resources = spec.resources
        with (
            cluster.share(
                log.job.id,
                actors=resources.most_actors,
                threads=resources.threads_per_actor,
                gpus=resources.gpus,
                priority=spec.priority,
                cancelled=log.cancelled,
                on_held=log.holds,
                on_notice=lambda reason: log.event(EventType.CLUSTER_NOTICE, reason=reason),
            ) as share,
            log.watching(
                lambda job: share.change(limit=job.spec.resources.most_actors, priority=job.spec.priority)
            ),
            plans.cache(settings).lease(),
        ):
            yield cls(settings, cluster, share, spec, log, dtype or _settled_dtype(spec, log))

    def fetch(self) -> None:
        """Download the model of the hub that the job names."""
        source = plans.model_source(self._spec, plans.allowed_roots(self._settings))
        fetch(source, self._log.cancelled, partial(_report, self._log))

    def check(self) -> Checked:
        """Check the spec against the files and the model it names."""
        checked = self._cluster.run_limited(
            check_job,
            self._settings.without_secrets(),
            self._spec,
            "fetched",
            self._dtype,
            cancelled=self._log.cancelled,
        )
        assert isinstance(checked, Checked)
        return checked

    def preparation(self, checked: Checked) -> PreparationPlan:
        """Plan the factors of a checked job."""
        return plans.preparation_plan(self._spec, checked, self._settings, self._dtype)

    def tune(self, plan: PreparationPlan) -> Tuned | None:
        """Cut and tune the model, if the job does that, or load the cached outcome."""
        if not plan.tuning.epochs:
            return None
        made = self._run(tuned, replace(plan, threads=self._spec.resources.threads))
        assert isinstance(made, Tuned)
        self._log.event(
            EventType.MODEL_TUNED,
            blocks=made.blocks,
            all_blocks=made.all_blocks,
            used=made.model != made.given,
            dense=float(made.quality["search"].mean()),
            helped=float(made.helped["search"].mean()),
        )
        return made

    def factor(self, plan: PreparationPlan, made: Tuned | None) -> Prepared:
        """Make the closed-form factors of the model, or load them from the cache."""
        factors = self._run(closed_form, replace(plan, tuned=made), workers=plan.workers)
        assert isinstance(factors, Prepared)
        return factors

    def latency(self, objective: TargetLatency, checked: Checked, factors: Prepared) -> Latency:
        """Measure the cost of ranks in time, or load what an earlier run measured."""
        if (known := latency.kept(self._log)) is not None:
            return known
        measured = self._run(measure_latency, latency.latency_plan(objective, self._spec, checked, factors))
        assert isinstance(measured, Latency)
        latency.keep(self._log, measured)
        return measured

    def search_plan(self, checked: Checked, factors: Prepared, measured: Latency | None) -> SearchPlan:
        """Plan the search of a checked job."""
        roots = plans.allowed_roots(self._settings)
        absent = factors.tuned.absent if factors.tuned else ()
        return search_plan(
            self._spec, factors.matrices, checked.remainder, self._dtype, roots, measured, absent
        )

    def train(self, plan: PreparationPlan, factors: Prepared) -> Prepared:
        """Train the factors, if the job does that."""
        prepared = factors
        if plan.training.epochs:
            threads = self._spec.resources.threads
            prepared = self._run(prepare, replace(plan, tuned=factors.tuned, threads=threads))
        assert isinstance(prepared, Prepared)
        self._log.count_preparation()
        matrices.keep(self._log.directory, prepared.matrices)
        return prepared

    @contextmanager
    def scorer(self, task: EncodedTask, prepared: Prepared, space: SearchSpace) -> Iterator[TaskScorer]:
        """Run actors that score genomes with the prepared factors until the block ends."""
        spec, log = self._spec, self._log
        dispatcher = self._cluster.dispatcher(
            plans.scorer_plan(spec, prepared),
            task,
            share=self._share,
            timeout_s=EVALUATION_TIMEOUT_S,
            cancelled=log.cancelled,
            on_replaced=lambda actor, reason: log.event(EventType.ACTOR_REPLACED, actor=actor, reason=reason),
        )
        try:
            yield TaskScorer(dispatcher, space, task, policy_of(spec).kl_weight)
        finally:
            dispatcher.close()

    def export(self, prepared: Prepared, ranks: tuple[int, ...], provenance: dict[str, Any]) -> Exported:
        """Write a model into the job's artifacts."""
        log = self._log
        plan = plans.export_plan(self._spec, prepared, ranks, provenance, log.directory)
        plan.folder.parent.mkdir(parents=True, exist_ok=True)
        exported = self._run(export, plan)
        assert isinstance(exported, Exported)
        log.event(EventType.ARTIFACT_EXPORTED, path=str(plan.folder), file_bytes=exported.file_bytes)
        return exported

    def verify(
        self,
        task: EncodedTask,
        prepared: Prepared,
        exported: Exported,
        split: str,
        examples: int,
        expected: float,
        measured: Latency | None,
    ) -> Verified:
        """Load an export in a fresh process, score it and time it.

        Args:
            task: The task.
            prepared: The dense model.
            exported: The export.
            split: Name of the split.
            examples: How many of its first examples are scored.
            expected: The metric that the model should have there.
            measured: Latency table of the job, whose workload is timed; None: no target in time.
        """
        log = self._log
        plan = plans.verification_plan(self._spec, prepared, exported, split, examples, measured)
        fresh = {"HF_MODULES_CACHE": str(log.directory / "modules")}
        verified = self._run(verify, plan, task, environment=fresh)
        assert isinstance(verified, Verified)
        metric = metric_of(task.kind, verified.scores)
        log.event(EventType.ARTIFACT_VERIFIED, metric=metric, expected=expected)
        return verified

    def _run(
        self, phase: Any, *arguments: Any, environment: dict[str, str] | None = None, workers: int = 1
    ) -> Any:
        """Run a phase on workers of the job's share."""
        return self._cluster.run(
            phase,
            *arguments,
            share=self._share,
            cancelled=self._log.cancelled,
            on_progress=partial(_report, self._log),
            environment=environment,
            workers=workers,
        )


def _settled_dtype(spec: JobSpec, log: JobLog) -> str:
    """Return the dtype that a job began with; before that, the one of this node."""
    for type in (EventType.MODEL_LOADED, EventType.LATENCY_MEASURED):
        if dtype := (log.last_event(type) or {}).get("dtype"):
            return str(dtype)
    return dtype_name(spec.model.dtype, spec.resources.device)


def _report(log: JobLog, progress: Progress) -> None:
    log.event(EventType.PHASE_PROGRESS, phase=progress.phase, done=progress.done, total=progress.total)
