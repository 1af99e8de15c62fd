"""Makes the model of an archived candidate: from cached factors, which are made again where they have gone.

    export → checked, same data and model as then → prepared → export → verified

Nothing is searched, chosen or confirmed here, and the test split is not touched: the numbers that go with the model are
those that the job it comes from measured, and its card says on what.
"""

from pathlib import Path
from typing import Any

from ranksieve.search.errors import ScoringError
from ranksieve.service.job.events import EventType
from ranksieve.service.job.exports import Export
from ranksieve.service.job.job import Job, JobState
from ranksieve.service.pipeline import plans, report
from ranksieve.service.pipeline.fingerprints import (
    require_same_data,
    require_same_matrices,
    require_same_model,
)
from ranksieve.service.pipeline.search_plan import seedless
from ranksieve.service.pipeline.steps import Phases
from ranksieve.service.run.clock import Clock
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.server.settings import Settings
from ranksieve.workers.cluster.session import Cluster
from ranksieve.workers.cluster.shares import Share
from ranksieve.workers.export.verification import Verified
from ranksieve.workers.types.metrics import drop_points
from ranksieve.workers.types.plan import EncodedTask
from ranksieve.workers.types.scores import metric_of

POINTS, EXAMPLES = 2.0, 2
"""Loaded back, an export may differ from what was measured by so many points, or examples where those are more."""


class Materializer:
    """Runs exports on a cluster.

    Args:
        settings: Where things are.
        cluster: The Ray session.
    """

    def __init__(self, settings: Settings, cluster: Cluster) -> None:
        self._settings = settings
        self._phases = Phases(settings, cluster)

    def __call__(self, job: Job, log: JobLog) -> dict[str, Any]:
        """Runs one export; returns its result (see `service.pipeline.report`)."""
        assert job.export is not None
        with self._phases.share(log) as share, plans.cache(self._settings).lease():
            return self._run(job, job.export, share, log)  # nothing that it uses is evicted

    def _run(self, job: Job, export: Export, share: Share, log: JobLog) -> dict[str, Any]:
        spec, clock, phases = seedless(job.spec), Clock(log.directory), self._phases
        with clock.phase("prepare"):
            dtype = export.known["model"]["dtype"]
            phases.fetch(spec, log)
            checked = phases.check(spec, dtype=dtype)
            require_same_data(export.known["data"], checked.task, export.job)
            require_same_matrices(self._settings.jobs_dir / export.job, checked.matrices, export.job)
            log.state(JobState.PREPARING)
            made = phases.factor(spec, checked, share, log, dtype)
            require_same_model(export.known["model"], made, export.job)
            measured = export.latency
            plan = phases.search_plan(spec, checked, made.model.dtype, measured)
            prepared = phases.prepare(spec, checked, made, plan, share, log)
        space = plan.space
        genome = space.validate(export.genome)
        refit = export.refit_file(self._settings.jobs_dir)

        log.state(JobState.FINALIZING)
        with clock.phase("export"):
            summary = report.export_summary(spec, export, space, prepared, refit)
            provenance = report.provenance(job, summary)
            ranks = space.ranks(genome)
            exported = phases.export(spec, prepared, ranks, refit, provenance, share, log)
        with clock.phase("verify"):
            split, examples = _measured_on(export, refit, checked.task)
            verified = phases.verify(
                spec, checked.task, prepared, exported, split, examples, share, log, measured
            )
            _require_reproduced(checked.task, summary["best"]["metric"][split], verified, log)
        return report.result(summary, prepared, exported, verified, clock.seconds)


def _measured_on(export: Export, refit: Path | None, task: EncodedTask) -> tuple[str, int]:
    """The split that says most of the model, and how many examples of it were scored."""
    if (confirmed := export.confirmed(refit)) is not None:
        return "confirm", int(confirmed.get("examples", len(task.splits["confirm"])))
    return "search", int(export.candidate["examples"])


def _require_reproduced(task: EncodedTask, expected: float, verified: Verified, log: JobLog) -> None:
    """Checks that the export does about as well as was measured: what it did on each example then was not kept.

    Raises:
        ScoringError: It does not.
    """
    metric = metric_of(task.kind, verified.scores)
    log.event(EventType.ARTIFACT_VERIFIED, metric=metric, expected=expected)
    allowed = max(POINTS, 100 * EXAMPLES / len(verified.scores.quality))
    difference = abs(drop_points(task.kind, expected, metric))
    if not difference <= allowed:
        raise ScoringError(
            f"the exported model does not do what was measured of its candidate: {metric:.4f}, expected "
            f"{expected:.4f}, {difference:.2f} points apart, at most {allowed:.2f} allowed; the factors may have been "
            "made again on another kind of machine, else please report this"
        )
