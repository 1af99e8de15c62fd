"""One job from its spec to its exported model, top to bottom.

    spec → checked → prepared (calibration, projections; latencies) → reweighed energies, descended genome
    → search ⇄ scoring → refit finalists → confirmation → test → export → verified

Every stage returns what a later one needs. Stopped anywhere and run again, it ends with the same result: the
preparation is cached by content, the search goes on from its last saved generation, the rest is repeated.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ranksieve.search.space.prices import Energies
from ranksieve.search.space.space import SearchSpace
from ranksieve.service.job.events import EventType
from ranksieve.service.job.job import Job, JobState
from ranksieve.service.pipeline import descent, plans, report, reweighing
from ranksieve.service.pipeline.confirmation import confidence_of, confirm, promise_notes
from ranksieve.service.pipeline.descent import descended
from ranksieve.service.pipeline.fingerprints import (
    data_of,
    model_of,
    require_same_data,
    require_same_factors,
    require_same_matrices,
    require_same_model,
)
from ranksieve.service.pipeline.policy import EVALUATION_TIMEOUT_S, policy_of
from ranksieve.service.pipeline.refitting import Finalists
from ranksieve.service.pipeline.reweighing import reweighed
from ranksieve.service.pipeline.scoring import TaskScorer
from ranksieve.service.pipeline.search_plan import SearchPlan, require_scorings, seedless
from ranksieve.service.pipeline.searching import search
from ranksieve.service.pipeline.steps import Phases, settled
from ranksieve.service.run.clock import Clock
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec, TargetLatency
from ranksieve.workers.cluster.actor import ScorerPlan
from ranksieve.workers.cluster.session import Cluster
from ranksieve.workers.cluster.shares import Share
from ranksieve.workers.factors.prepared import Prepared
from ranksieve.workers.model.sources import Weights
from ranksieve.workers.preflight import Checked
from ranksieve.workers.types.plan import EncodedTask
from ranksieve.workers.types.scores import first

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
        self._phases = Phases(settings, cluster)

    def check(self, spec: JobSpec, weights: Weights = "listed") -> Checked:
        """Checks the spec of a new job against the files and the model it names, of whose weights so much is asked.

        Raises:
            InputError: It cannot work; names the field.
        """
        checked = self._phases.check(spec, weights)
        require_scorings(settled(spec, checked))
        return checked

    def __call__(self, job: Job, log: JobLog) -> dict[str, Any]:
        """Runs one job; returns its result (see `service.pipeline.report`)."""
        with self._phases.share(log) as share, plans.cache(self._settings).lease():
            return self._run(job, share, log)  # nothing that it uses is evicted

    def _run(self, job: Job, share: Share, log: JobLog) -> dict[str, Any]:
        spec, clock, phases = job.spec, Clock(log.directory), self._phases
        asked = spec if log.search_state() is None else seedless(spec)
        with clock.phase("prepare"):
            dtype = phases.settled_dtype(spec, log)
            phases.fetch(asked, log)
            checked = phases.check(asked, dtype=dtype)
            require_same_matrices(log.directory, checked.matrices, job.id)
            _announce_data(log, checked.task, promise_notes(spec))
            log.state(JobState.PREPARING)
            made = phases.factor(spec, checked, share, log, dtype)
        measured = None
        if isinstance(spec.objective, TargetLatency):
            with clock.phase("latency"):
                measured = phases.latency(spec.objective, spec, checked, made, share, log)
        plan = phases.search_plan(asked, checked, made.model.dtype, measured)
        space = plan.space
        with clock.phase("prepare"):
            prepared = phases.prepare(spec, checked, made, plan, share, log)
            _announce_model(log, prepared, spec.resources.device)

        log.state(JobState.SEARCHING)
        with self._scoring(spec, checked, space, share, log, prepared) as scorer:
            with clock.phase("dense"):
                _score_dense(scorer, ("search", "confirm"), log)
            plan, energies = _set_out(spec, plan, checked.task, clock, log, prepared, scorer)
            with clock.phase("search"):
                evolution = search(plan, energies, scorer, confidence_of(spec), log)

            log.state(JobState.FINALIZING)
            finalists = evolution.finalists()
            genomes, risks = [one.genome for one in finalists], [one.risk for one in finalists]
            candidates = Finalists(
                spec, space, scorer, genomes, log, clock, by_block=checked.by_block
            )
            with clock.phase("confirm"):
                winner = confirm(spec, space, scorer, candidates, risks, log)
                candidates.end()
            with clock.phase("test"):
                _score_dense(scorer, ("test",), log)
                tested = winner.with_test(scorer, log)

        with clock.phase("export"):
            summary = report.summary(spec, plan, checked, prepared, scorer, tested, evolution)
            ranks, refit = space.ranks(tested.candidate.genome), tested.candidate.refit
            provenance = report.provenance(job, summary)
            exported = phases.export(spec, prepared, ranks, refit, provenance, share, log)
        with clock.phase("verify"):
            expected = first(tested.confirm, min(VERIFIED_EXAMPLES, len(tested.confirm.quality)))
            count = len(expected.quality)
            verified = phases.verify(
                spec, checked.task, prepared, exported, "confirm", count, share, log, measured
            )
            log.event(
                EventType.ARTIFACT_VERIFIED,
                metric=scorer.metric(verified.scores),
                expected=scorer.metric(expected),
            )
            report.require_reproduced(expected, verified.scores)
        return report.result(summary, prepared, exported, verified, clock.seconds)

    @contextmanager
    def _scoring(
        self,
        spec: JobSpec,
        checked: Checked,
        space: SearchSpace,
        share: Share,
        log: JobLog,
        prepared: Prepared,
    ) -> Iterator[TaskScorer]:
        """Actors that have loaded the factors, as long as the `with` block is in."""
        resources = spec.resources
        plan = ScorerPlan(
            model_folder=prepared.model.folder,
            factors_folder=prepared.factors,
            matrices=prepared.matrices,
            batch_tokens=resources.batch_tokens,
            threads=resources.threads_per_actor,
            device=spec.resources.device,
        )
        dispatcher = self._cluster.dispatcher(
            plan,
            checked.task,
            share=share,
            timeout_s=EVALUATION_TIMEOUT_S,
            cancelled=log.cancelled,
            on_replaced=lambda actor, reason: log.event(EventType.ACTOR_REPLACED, actor=actor, reason=reason),
        )
        try:
            yield TaskScorer(dispatcher, space, checked.task, policy_of(spec).kl_weight)
        finally:
            dispatcher.close()


def _set_out(
    spec: JobSpec,
    plan: SearchPlan,
    task: EncodedTask,
    clock: Clock,
    log: JobLog,
    prepared: Prepared,
    scorer: TaskScorer,
) -> tuple[SearchPlan, Energies]:
    """The plan with the genomes that reweighing and descent lead to, and the reweighed energies."""
    with clock.phase("reweigh"):
        plan, energies, begin = reweighed(spec, plan, prepared.energies, task, scorer, log)
    with clock.phase("descend"):
        calibration = len(task.splits["calibration"])
        return descended(spec, plan, energies, begin, calibration, scorer, log), energies


def _score_dense(scorer: TaskScorer, splits: tuple[str, ...], log: JobLog) -> None:
    for split in splits:
        scores = scorer.score_dense(split, log.progress("dense"))
        log.event(
            EventType.DENSE_SCORED,
            split=split,
            metric=scorer.metric(scores),
            metric_name=scorer.metric_name,
        )


def _announce_data(log: JobLog, task: EncodedTask, notes: Sequence[str]) -> None:
    if (before := log.last_event(EventType.DATA_LOADED)) and (known := before.get("digests")):
        require_same_data(known, task, log.job.id)
    log.event(
        EventType.DATA_LOADED,
        splits={name: len(examples) for name, examples in task.splits.items()},
        dropped_duplicates=task.dropped_duplicates,
        digests=data_of(task),
        notes=list(notes),
    )


def _announce_model(log: JobLog, prepared: Prepared, device: str) -> None:
    factors = prepared.factors.name
    if before := log.last_event(EventType.MODEL_LOADED):
        require_same_model(before, prepared, log.job.id)
        if log.search_state() is not None:
            require_same_factors(before, prepared, log.job.id)
        elif before["factors"] != factors:
            _forget_what_was_measured(log)
    log.event(
        EventType.MODEL_LOADED,
        matrices=len(prepared.matrices),
        block_params=prepared.block_params,
        total_params=prepared.total_params,
        **model_of(prepared),
        device=device,
        factors=factors,
    )


def _forget_what_was_measured(log: JobLog) -> None:
    """Before its first generation a job can begin anew: what it knows of other factors says nothing of these."""
    for name in (reweighing.FILE, descent.FILE):
        (log.directory / name).unlink(missing_ok=True)
