"""The phases that jobs and exports share: checking, preparing, exporting, verifying, each run on the cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from ranksieve.search.errors import InputError
from ranksieve.service.job import matrices
from ranksieve.service.job.events import EventType
from ranksieve.service.pipeline import latency, plans
from ranksieve.service.pipeline.policy import gives_bias, propagated_shares
from ranksieve.service.pipeline.search_plan import SearchPlan, check_search_plan, search_plan
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec, TargetLatency
from ranksieve.workers.cluster.session import Cluster
from ranksieve.workers.cluster.shares import Share
from ranksieve.workers.cost.latency import Latency, measure_latency
from ranksieve.workers.cost.speed import dtype_name
from ranksieve.workers.export.verification import VerificationPlan, Verified, verify
from ranksieve.workers.export.writer import Exported, ExportPlan, export
from ranksieve.workers.factors.preparation import closed_form, prepare, propagated
from ranksieve.workers.factors.prepared import PreparationPlan, Prepared, Progress
from ranksieve.workers.model.fetching import fetch
from ranksieve.workers.model.sources import Weights
from ranksieve.workers.preflight import Checked, check
from ranksieve.workers.types.plan import EncodedTask


def settled(spec: JobSpec, checked: Checked) -> JobSpec:
    """Fill in the sizes of the splits that a job file leaves open."""
    return spec.with_sizes({name: len(examples) for name, examples in checked.task.splits.items()})


def on_cluster(spec: JobSpec, cluster: Cluster) -> JobSpec:
    """Fill in the resources that a job file leaves open, by what the cluster has.

    Raises:
        InputError: No node holds even one of the job's actors, or the cluster does not answer and was to decide.
    """
    resources, nodes = spec.resources, cluster.nodes()
    if not nodes and None in (resources.actors, resources.gpus_per_actor):
        raise InputError(
            "resources",
            "the cluster does not answer, so its size cannot be chosen from; try again, or give actors and "
            "gpus_per_actor",
        )
    cpus, gpus = (sum(node.get(unit, 0) for node in nodes) for unit in ("CPU", "GPU"))
    spec = spec.on_cluster(cpus=cpus, gpus=gpus)
    cluster.check(threads=resources.threads_per_actor, gpus=spec.resources.gpus)
    return spec


class Phases:
    """Runs phases on a cluster.

    Args:
        settings: Where things are.
        cluster: The Ray session.
    """

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._settings = settings
        self._cluster = cluster

    @contextmanager
    def share(self, log: JobLog) -> Iterator[Share]:
        """A job's part of the cluster, waited for and given back; meanwhile it goes by what the job's user asks.

        Raises:
            InputError: The cluster does not hold even one of the job's actors.
            InfrastructureError: There is no cluster.
            CancelledError: The job is to end before there was room for it.
        """
        spec, resources = log.job.spec, log.job.spec.resources
        with (
            self._cluster.share(
                log.job.id,
                actors=resources.most_actors,
                threads=resources.threads_per_actor,
                gpus=resources.gpus,
                priority=spec.priority,
                cancelled=log.cancelled,
                on_held=log.holds,
            ) as share,
            log.watching(
                lambda job: share.change(limit=job.spec.resources.most_actors, priority=job.spec.priority)
            ),
        ):
            yield share

    def settled_dtype(self, spec: JobSpec, log: JobLog) -> str:
        """The dtype that a job works in: as it was settled when it first came here, whatever this node would take."""
        for type in (EventType.MODEL_LOADED, EventType.LATENCY_MEASURED):
            if dtype := (log.last_event(type) or {}).get("dtype"):
                return str(dtype)
        return dtype_name(spec.model.dtype, spec.resources.device)

    def fetch(self, spec: JobSpec, log: JobLog) -> None:
        """Has the model of the hub here that a job names, so that `check` need not wait for it.

        Raises:
            InputError: It cannot be had.
            InfrastructureError: It may be had later.
            CancelledError: The job is to end.
        """
        source = plans.model_source(spec, plans.allowed_roots(self._settings))
        fetch(source, log.cancelled, partial(_tell, log))

    def check(self, spec: JobSpec, weights: Weights = "fetched", dtype: str | None = None) -> Checked:
        """Checks a spec against the files and the model it names.

        Args:
            spec: The job.
            weights: So much is asked of the model's.
            dtype: What it works in, where that is settled: it tells what sizes in bytes there are.

        Raises:
            InputError: It cannot work; names the field.
        """
        roots = plans.allowed_roots(self._settings)
        cache = plans.cache(self._settings)
        with cache.lease():
            checked = check(
                plans.model_source(spec, roots),
                plans.task_plan(spec),
                plans.data_plan(spec, roots),
                cache,
                weights=weights,
                head_bias=gives_bias(spec),
            )
        dtype = dtype or dtype_name(spec.model.dtype, spec.resources.device)
        spec = settled(spec, checked)
        check_search_plan(spec, checked.matrices, checked.remainder, dtype, roots)
        if isinstance(spec.objective, TargetLatency):
            latency.workload_of(spec.objective, spec, checked)
        return checked

    def search_plan(
        self, spec: JobSpec, checked: Checked, dtype: str, measured: Latency | None = None
    ) -> SearchPlan:
        """What the search of a checked job takes."""
        roots = plans.allowed_roots(self._settings)
        return search_plan(spec, checked.matrices, checked.remainder, dtype, roots, measured)

    def factor(self, spec: JobSpec, checked: Checked, share: Share, log: JobLog, dtype: str) -> Prepared:
        """The model on disk and its factors in closed form: from the cache, or made again.

        All workers take the same dtype, whatever nodes they are on.
        """
        plan = self._plan(spec, checked, dtype)
        made = self._run(closed_form, plan, share=share, log=log, workers=spec.resources.most_actors)
        assert isinstance(made, Prepared)
        return made

    def prepare(
        self,
        spec: JobSpec,
        checked: Checked,
        made: Prepared,
        search: SearchPlan,
        share: Share,
        log: JobLog,
    ) -> Prepared:
        """The factors that a job goes on with: those in closed form, propagated and trained, where it wants that.

        Errors are propagated around the size that the search will aim at.
        """
        plan, prepared = self._plan(spec, checked, made.model.dtype), made
        if plan.propagated_shares:
            sizes = propagated_shares(spec, search.share(made.energies))
            plan = replace(plan, propagated_shares=sizes)
            prepared = self._run(propagated, plan, share=share, log=log)
        if plan.refinement.epochs:
            threads = spec.resources.threads
            prepared = self._run(prepare, replace(plan, threads=threads), share=share, log=log)
        assert isinstance(prepared, Prepared)
        if prepared.propagation is not None:
            told = asdict(prepared.propagation)
            log.event(EventType.FACTORS_PROPAGATED, **told, kept=prepared.propagation.kept)
        log.count_preparation(propagated=bool(plan.propagated_shares))
        matrices.keep(log.directory, prepared.matrices)
        return prepared

    def _plan(self, spec: JobSpec, checked: Checked, dtype: str) -> PreparationPlan:
        plan = plans.preparation_plan(spec, checked, self._settings)
        return replace(plan, model=replace(plan.model, dtype=dtype))  # type: ignore[arg-type]

    def latency(
        self,
        objective: TargetLatency,
        spec: JobSpec,
        checked: Checked,
        prepared: Prepared,
        share: Share,
        log: JobLog,
    ) -> Latency:
        """What ranks cost in time: as it was measured when the job first came here."""
        if (known := latency.kept(log)) is not None:
            return known
        plan = latency.latency_plan(objective, spec, checked, prepared)
        measured = self._run(measure_latency, plan, share=share, log=log)
        assert isinstance(measured, Latency)
        latency.keep(log, measured)
        return measured

    def export(
        self,
        spec: JobSpec,
        prepared: Prepared,
        ranks: tuple[int, ...],
        refit: Path | None,
        provenance: dict[str, Any],
        share: Share,
        log: JobLog,
    ) -> Exported:
        """Writes a model into the job's artifacts."""
        folder = log.directory / "artifacts" / "model"
        folder.parent.mkdir(parents=True, exist_ok=True)
        plan = ExportPlan(
            model_folder=prepared.model.folder,
            factors_folder=prepared.factors,
            matrices=prepared.matrices,
            ranks=ranks,
            refit=refit,
            folder=folder,
            scratch=log.directory / "model.tmp",
            provenance=provenance,
        )
        exported = self._run(export, plan, share=share, log=log)
        assert isinstance(exported, Exported)
        log.event(EventType.ARTIFACT_EXPORTED, path=str(folder), file_bytes=exported.file_bytes)
        return exported

    def verify(
        self,
        spec: JobSpec,
        task: EncodedTask,
        prepared: Prepared,
        exported: Exported,
        split: str,
        examples: int,
        share: Share,
        log: JobLog,
        measured: Latency | None = None,
    ) -> Verified:
        """Loads an export in a fresh process, scores it on the first examples of a split, times it as it was to be."""
        plan = VerificationPlan(
            exported=exported.folder,
            dense=prepared.model.folder,
            split=split,
            examples=examples,
            batch_tokens=spec.resources.batch_tokens,
            threads=spec.resources.threads,
            device=spec.resources.device,
            timed=None if measured is None else (measured.workload, measured.threads),
        )
        fresh = {"HF_MODULES_CACHE": str(log.directory / "modules")}
        verified = self._run(verify, plan, task, share=share, log=log, environment=fresh)
        assert isinstance(verified, Verified)
        return verified

    def _run(
        self,
        phase: Any,
        *arguments: Any,
        share: Share,
        log: JobLog,
        environment: dict[str, str] | None = None,
        workers: int = 1,
    ) -> Any:
        """Runs a phase on workers of the job's share."""
        return self._cluster.run(
            phase,
            *arguments,
            share=share,
            cancelled=log.cancelled,
            on_progress=partial(_tell, log),
            environment=environment,
            workers=workers,
        )


def _tell(log: JobLog, progress: Progress) -> None:
    log.event(EventType.PHASE_PROGRESS, phase=progress.phase, done=progress.done, total=progress.total)
