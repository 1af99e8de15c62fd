"""One job from its spec to its exported model, top to bottom.

    spec → checked → prepared (calibration, projections) → search ⇄ scoring → refit finalists → confirmation → test
    → export → verified

Every stage returns what a later one needs. Stopped anywhere and run again, it ends with the same result: the
preparation is cached by content, the search goes on from its last saved generation, the rest is repeated.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from search.space import SearchSpace
from service import matrices, plans, report
from service.confirmation import Winner, confidence_of, confirm
from service.events import EventType
from service.joblog import JobLog
from service.jobs import Job, JobState
from service.refitting import refit_finalists
from service.scoring import TaskScorer
from service.search_plan import SearchPlan, search_plan
from service.searching import search
from service.settings import Settings
from service.spec import JobSpec
from service.tracing import span
from workers.actor import ScorerPlan
from workers.cluster import Cluster
from workers.dispatcher import Dispatcher
from workers.export import Exported, ExportPlan, export
from workers.metrics import METRIC_NAMES
from workers.preflight import Checked, check
from workers.preparation import Prepared, Progress, closed_form, prepare
from workers.rates import dtype_name
from workers.scores import first
from workers.verification import VerificationPlan, Verified, verify

VERIFIED_EXAMPLES = 512
"""On so many examples of the confirm split the exported model must do what the candidate did."""


class Pipeline:
    """Runs jobs on a cluster.

    Args:
        settings: Where things are.
        cluster: The Ray session.
    """

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._settings = settings
        self._cluster = cluster

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
        self._search_plan(spec, checked, dtype_name(spec.model.dtype, spec.resources.device))
        return checked

    def __call__(self, job: Job, log: JobLog) -> dict[str, Any]:
        """Runs one job; returns its result (see `service.report`)."""
        with plans.cache(self._settings).lease():  # nothing that this job uses is evicted
            return self._run(job, log)

    def _run(self, job: Job, log: JobLog) -> dict[str, Any]:
        spec, clock = job.spec, _Clock()
        resources = spec.resources
        self._cluster.require(resources.actors, resources.threads_per_actor, resources.gpus_per_actor)
        with clock.phase("prepare"):
            checked = self.check(spec)
            _announce_data(log, checked)
            prepared = self._prepare(spec, checked, log)
            matrices.keep(log.directory, prepared.matrices)
            _announce_model(log, prepared, spec.resources.device)
        plan = self._search_plan(spec, checked, prepared.model.dtype)
        space = plan.space

        log.state(JobState.SEARCHING)
        with self._actors(spec, checked, prepared, log) as dispatcher:
            scorer = TaskScorer(dispatcher, space, checked.task, spec.search.kl_weight)
            with clock.phase("dense"):
                _score_dense(scorer, ("search", "confirm"), checked, log)
            with clock.phase("search"):
                evolution = search(plan, prepared.energies, scorer, confidence_of(spec), log)

            log.state(JobState.FINALIZING)
            with clock.phase("refit"):
                finalists = refit_finalists(spec, space, scorer, evolution.finalists(), log)
            with clock.phase("confirm"):
                winner = confirm(spec, space, scorer, finalists, log)
            with clock.phase("test"):
                _score_dense(scorer, ("test",), checked, log)
                scores = winner.with_test(scorer, log)

        with clock.phase("export"):
            summary = report.summary(spec, plan, checked, prepared, scorer, scores, evolution)
            exported = self._export(space, prepared, scores, summary, job, log)
        with clock.phase("verify"):
            verified = self._verify(spec, checked, prepared, exported, scorer, scores, log)
        return report.result(summary, prepared, exported, verified, clock.seconds)

    def _search_plan(self, spec: JobSpec, checked: Checked, dtype: str) -> SearchPlan:
        roots = plans.allowed_roots(self._settings)
        return search_plan(spec, checked.matrices, checked.remainder, dtype, roots)

    def _prepare(self, spec: JobSpec, checked: Checked, log: JobLog) -> Prepared:
        plan, resources = plans.preparation_plan(spec, checked, self._settings), spec.resources
        prepared = self._run_phase(closed_form, plan, spec=spec, log=log, workers=resources.actors)
        if plan.refinement.epochs:
            prepared = self._run_phase(prepare, replace(plan, threads=resources.threads), spec=spec, log=log)
        assert isinstance(prepared, Prepared)
        log.count_preparation()
        return prepared

    @contextmanager
    def _actors(
        self, spec: JobSpec, checked: Checked, prepared: Prepared, log: JobLog
    ) -> Iterator[Dispatcher]:
        resources = spec.resources
        plan = ScorerPlan(
            model_folder=prepared.model.folder,
            factors_folder=prepared.factors,
            matrices=prepared.matrices,
            batch_tokens=resources.tokens_per_batch,
            threads=resources.threads_per_actor,
            device=spec.resources.device,
        )
        dispatcher = self._cluster.dispatcher(
            plan,
            checked.task,
            actors=resources.actors,
            gpus=resources.gpus_per_actor,
            timeout_s=resources.evaluation_timeout_s,
            cancelled=log.cancelled,
            on_replaced=lambda actor, reason: log.event(EventType.ACTOR_REPLACED, actor=actor, reason=reason),
        )
        try:
            yield dispatcher
        finally:
            dispatcher.close()

    def _export(
        self,
        space: SearchSpace,
        prepared: Prepared,
        winner: Winner,
        summary: dict[str, Any],
        job: Job,
        log: JobLog,
    ) -> Exported:
        folder = log.directory / "artifacts" / "model"
        folder.parent.mkdir(parents=True, exist_ok=True)
        plan = ExportPlan(
            model_folder=prepared.model.folder,
            factors_folder=prepared.factors,
            matrices=prepared.matrices,
            ranks=space.ranks(winner.candidate.genome),
            refit=winner.candidate.refit,
            storage=space.storage,
            folder=folder,
            provenance=report.provenance(job, summary),
        )
        exported = self._run_phase(export, plan, spec=job.spec, log=log)
        assert isinstance(exported, Exported)
        log.event(EventType.ARTIFACT_EXPORTED, path=str(folder), file_bytes=exported.file_bytes)
        return exported

    def _verify(
        self,
        spec: JobSpec,
        checked: Checked,
        prepared: Prepared,
        exported: Exported,
        scorer: TaskScorer,
        winner: Winner,
        log: JobLog,
    ) -> Verified:
        modules_dir = log.directory / "modules"
        plan = VerificationPlan(
            exported=exported.folder,
            dense=prepared.model.folder,
            split="confirm",
            examples=min(VERIFIED_EXAMPLES, len(winner.confirm.quality)),
            batch_tokens=spec.resources.tokens_per_batch,
            threads=spec.resources.threads,
            device=spec.resources.device,
        )
        fresh = {"HF_MODULES_CACHE": str(modules_dir)}
        verified = self._run_phase(verify, plan, checked.task, spec=spec, log=log, environment=fresh)
        assert isinstance(verified, Verified)
        expected = first(winner.confirm, plan.examples)
        log.event(
            EventType.ARTIFACT_VERIFIED,
            metric=scorer.metric(verified.scores),
            expected=scorer.metric(expected),
        )
        report.require_reproduced(expected, verified.scores)
        return verified

    def _run_phase(
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


class _Clock:
    """Seconds per phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        with span(name):
            yield
        self.seconds[name] = round(time.monotonic() - started, 3)


def _score_dense(scorer: TaskScorer, splits: tuple[str, ...], checked: Checked, log: JobLog) -> None:
    for split in splits:
        scores = scorer.score_dense(split, log.progress("dense"))
        log.event(
            EventType.DENSE_SCORED,
            split=split,
            metric=scorer.metric(scores),
            metric_name=METRIC_NAMES[checked.task.kind],
        )


def _announce_data(log: JobLog, checked: Checked) -> None:
    log.event(
        EventType.DATA_LOADED,
        splits={name: len(examples) for name, examples in checked.task.splits.items()},
        dropped_duplicates=checked.task.dropped_duplicates,
    )


def _announce_model(log: JobLog, prepared: Prepared, device: str) -> None:
    log.event(
        EventType.MODEL_LOADED,
        matrices=len(prepared.matrices),
        block_params=prepared.block_params,
        total_params=prepared.total_params,
        dtype=prepared.model.dtype,
        device=device,
    )
