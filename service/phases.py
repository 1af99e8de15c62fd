"""The phases that jobs and exports share: checking, preparing, exporting, verifying, each run on the cluster."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from service import matrices, plans
from service.events import EventType
from service.joblog import JobLog
from service.search_plan import SearchPlan, search_plan
from service.settings import Settings
from service.spec import JobSpec
from workers.cluster import Cluster
from workers.export import Exported, ExportPlan, export
from workers.plan import EncodedTask
from workers.preflight import Checked, check
from workers.preparation import Prepared, Progress, closed_form, prepare
from workers.rates import dtype_name
from workers.verification import VerificationPlan, Verified, verify


class Phases:
    """Runs phases on a cluster.

    Args:
        settings: Where things are.
        cluster: The Ray session.
    """

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._settings = settings
        self._cluster = cluster

    def require(self, spec: JobSpec) -> None:
        """Checks that the cluster has what a job wants.

        Raises:
            InfrastructureError: It has less.
        """
        resources = spec.resources
        self._cluster.require(resources.actors, resources.threads_per_actor, resources.gpus_per_actor)

    def check(self, spec: JobSpec) -> Checked:
        """Checks a spec against the files and the model it names.

        Raises:
            InputError: It cannot work; names the field.
        """
        roots = plans.allowed_roots(self._settings)
        cache = plans.cache(self._settings)
        with cache.lease():
            checked = check(
                plans.model_source(spec, roots), plans.task_plan(spec), plans.data_plan(spec, roots), cache
            )
        self.search_plan(spec, checked, dtype_name(spec.model.dtype, spec.resources.device))
        return checked

    def search_plan(self, spec: JobSpec, checked: Checked, dtype: str) -> SearchPlan:
        """What the search of a checked job takes."""
        roots = plans.allowed_roots(self._settings)
        return search_plan(spec, checked.matrices, checked.remainder, dtype, roots)

    def prepare(self, spec: JobSpec, checked: Checked, log: JobLog) -> Prepared:
        """The model on disk and its factors: from the cache, or made again."""
        plan, resources = plans.preparation_plan(spec, checked, self._settings), spec.resources
        prepared = self._run(closed_form, plan, spec=spec, log=log, workers=resources.actors)
        if plan.refinement.epochs:
            prepared = self._run(prepare, replace(plan, threads=resources.threads), spec=spec, log=log)
        assert isinstance(prepared, Prepared)
        log.count_preparation()
        matrices.keep(log.directory, prepared.matrices)
        return prepared

    def export(
        self,
        spec: JobSpec,
        prepared: Prepared,
        ranks: tuple[int, ...],
        refit: Path | None,
        provenance: dict[str, Any],
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
            storage=spec.projection.storage,
            folder=folder,
            provenance=provenance,
        )
        exported = self._run(export, plan, spec=spec, log=log)
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
        log: JobLog,
    ) -> Verified:
        """Loads an export in a fresh process and scores it on the first examples of a split."""
        plan = VerificationPlan(
            exported=exported.folder,
            dense=prepared.model.folder,
            split=split,
            examples=examples,
            batch_tokens=spec.resources.tokens_per_batch,
            threads=spec.resources.threads,
            device=spec.resources.device,
        )
        fresh = {"HF_MODULES_CACHE": str(log.directory / "modules")}
        verified = self._run(verify, plan, task, spec=spec, log=log, environment=fresh)
        assert isinstance(verified, Verified)
        return verified

    def _run(
        self,
        phase: Any,
        *arguments: Any,
        spec: JobSpec,
        log: JobLog,
        environment: dict[str, str] | None = None,
        workers: int = 1,
    ) -> Any:
        """Runs a phase on workers that share the job's processors; a single one gets them all."""

        def on_progress(progress: Progress) -> None:
            log.event(
                EventType.PHASE_PROGRESS, phase=progress.phase, done=progress.done, total=progress.total
            )

        return self._cluster.run(
            phase,
            *arguments,
            cpus=spec.resources.threads // workers,
            gpus=spec.resources.gpus_per_actor,
            cancelled=log.cancelled,
            on_progress=on_progress,
            environment=environment,
            workers=workers,
        )
