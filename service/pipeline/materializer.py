"""Export of an archived candidate, from factors of the cache or made again.

    export → checked, same data and model as then → prepared → export → verified

Nothing is searched, chosen or confirmed here, and the test split is not touched. The numbers of the model are those
that its parent job measured, and its card says on which splits.
"""

from pathlib import Path
from typing import Any

from ranksieve.service.job.export import Export
from ranksieve.service.job.job import Job, JobState
from ranksieve.service.pipeline import report
from ranksieve.service.pipeline.fingerprints import (
    require_same_data,
    require_same_matrices,
    require_same_model,
)
from ranksieve.service.pipeline.latency import of_export
from ranksieve.service.pipeline.reproduction import require_same_metric
from ranksieve.service.pipeline.search_plan import seedless
from ranksieve.service.pipeline.steps import JobSteps
from ranksieve.service.run.clock import Clock
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.workers.cluster.session import Cluster
from ranksieve.workers.types.plan import EncodedTask


def run_export(settings: Settings, cluster: Cluster, job: Job, export: Export, log: JobLog) -> dict[str, Any]:
    """Run one export on a cluster; return its result (see `service.pipeline.report`)."""
    spec, dtype = seedless(job.spec), export.known["model"]["dtype"]
    with JobSteps.on(cluster, settings, spec, log, dtype) as steps:
        return _run(job, export, spec, steps, log, settings.jobs_dir)


def _run(
    job: Job, export: Export, spec: JobSpec, steps: JobSteps, log: JobLog, jobs_dir: Path
) -> dict[str, Any]:
    clock, measured = Clock(log.directory), of_export(export)
    with clock.phase("prepare"):
        steps.fetch()
        checked = steps.check()
        require_same_data(export.known["data"], checked.task, export.job)
        require_same_matrices(jobs_dir / export.job, checked.matrices, export.job)
        log.state(JobState.PREPARING)
        preparation = steps.preparation(checked)
        factors = steps.factor(preparation, steps.tune(preparation))
        require_same_model(export.known["model"], factors, export.job)
        plan = steps.search_plan(checked, factors, measured)
        prepared = steps.train(preparation, factors)
    space = plan.space
    genome = space.validate(export.genome)

    log.state(JobState.FINALIZING)
    with clock.phase("export"):
        summary = report.export_summary(spec, export, space, prepared)
        provenance = report.provenance(job, checked, summary)
        exported = steps.export(prepared, space.ranks(genome), provenance)
    with clock.phase("verify"):
        split, examples = _measured_on(export, checked.task)
        expected = summary["best"]["metric"][split]
        verified = steps.verify(checked.task, prepared, exported, split, examples, expected, measured)
        require_same_metric(checked.task, expected, verified.scores)
    return report.result(summary, prepared, exported, verified, clock.seconds)


def _measured_on(export: Export, task: EncodedTask) -> tuple[str, int]:
    """Return the most telling split of the model and its number of scored examples."""
    if export.finalist is not None:
        return "confirm", len(task.splits["confirm"])
    return "search", len(task.splits["search"])
