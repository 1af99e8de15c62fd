"""One job from its spec to its exported model, top to bottom.

    spec → checked → (tuned) → factors → (latency) → (trained) → search ⇄ scoring → confirmation → test → export
    → verified → result

Every step returns what a later one needs. A job that is stopped anywhere and run again ends with the same result:
factors are cached by content, generations are saved as they end, and the rest is repeated.
"""

from typing import Any

from ranksieve.service.job.job import Job, JobState
from ranksieve.service.pipeline import report
from ranksieve.service.pipeline.confirmation import confidence_of, confirm, promise_notes
from ranksieve.service.pipeline.fingerprints import (
    announce_data,
    announce_model,
    require_same_matrices,
)
from ranksieve.service.pipeline.materializer import run_export
from ranksieve.service.pipeline.reproduction import VERIFIED_EXAMPLES, require_reproduced
from ranksieve.service.pipeline.scoring import announce_dense
from ranksieve.service.pipeline.search_plan import seedless
from ranksieve.service.pipeline.searching import search
from ranksieve.service.pipeline.steps import JobSteps
from ranksieve.service.pipeline.trials import TrialScorer
from ranksieve.service.run.clock import Clock
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec, TargetLatency
from ranksieve.workers.cluster.session import Cluster
from ranksieve.workers.types.scores import first


def run_job(settings: Settings, cluster: Cluster, job: Job, log: JobLog) -> dict[str, Any]:
    """Run one job or export; return its result (see `service.pipeline.report`)."""
    if job.export is not None:
        return run_export(settings, cluster, job, job.export, log)
    spec = job.spec if log.search_state() is None else seedless(job.spec)
    with JobSteps.on(cluster, settings, spec, log) as steps:
        return _run(job, spec, steps, log)


def _run(job: Job, spec: JobSpec, steps: JobSteps, log: JobLog) -> dict[str, Any]:
    clock = Clock(log.directory)
    with clock.phase("prepare"):
        steps.fetch()
        checked = steps.check()
        require_same_matrices(log.directory, checked.matrices, job.id)
        announce_data(log, checked.task, promise_notes(spec))
        log.state(JobState.PREPARING)
        preparation = steps.preparation(checked)
        factors = steps.factor(preparation, steps.tune(preparation))
    measured = None
    if isinstance(spec.objective, TargetLatency):
        with clock.phase("latency"):
            measured = steps.latency(spec.objective, checked, factors)
    plan = steps.search_plan(checked, factors, measured)
    with clock.phase("prepare"):
        prepared = steps.train(preparation, factors)
        announce_model(log, prepared, spec.resources.device)

    log.state(JobState.SEARCHING)
    with steps.scorer(checked.task, prepared, plan.space) as scorer:
        with clock.phase("dense"):
            announce_dense(scorer, ("search", "confirm"), log)
        with clock.phase("search"):
            evolution = search(plan, prepared.energies, TrialScorer(scorer), confidence_of(spec), log)

        log.state(JobState.FINALIZING)
        with clock.phase("confirm"):
            winner = confirm(spec, scorer, evolution.finalists(), log)
        with clock.phase("test"):
            announce_dense(scorer, ("test",), log)
            winner = winner.with_test(scorer, log)

    with clock.phase("export"):
        summary = report.summary(spec, plan, checked, prepared, scorer, winner, evolution)
        provenance = report.provenance(job, checked, summary)
        exported = steps.export(prepared, plan.space.ranks(winner.genome), provenance)
    with clock.phase("verify"):
        confirmed = first(winner.confirm, VERIFIED_EXAMPLES)
        count, metric = len(confirmed.quality), scorer.metric(confirmed)
        verified = steps.verify(checked.task, prepared, exported, "confirm", count, metric, measured)
        require_reproduced(confirmed, verified.scores)
    return report.result(summary, prepared, exported, verified, clock.seconds)
