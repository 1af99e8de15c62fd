"""Latency table of a job, measured once and kept for good.

Timings cannot be reproduced, and a search depends on them. So the table is an event of its job, in the store like the
generations, and is copied into the result for later exports.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ranksieve.search.errors import InputError
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.service.job.events import EventType
from ranksieve.service.job.export import TABLE, Export
from ranksieve.service.policy import policy_of
from ranksieve.service.run.joblog import JobLog
from ranksieve.service.spec import JobSpec, TargetLatency
from ranksieve.workers.cost.latency import Latency, LatencyPlan
from ranksieve.workers.cost.workload import Workload, typical_batch
from ranksieve.workers.export.verification import Spent
from ranksieve.workers.factors.prepared import Prepared
from ranksieve.workers.preflight import Checked

WITHIN = 1.05
"""Tolerance on a promised time, because repeated timings differ by some percent."""


def workload_of(objective: TargetLatency, spec: JobSpec, checked: Checked) -> Workload:
    """Choose the forward pass that is timed: on a typical batch of the search split.

    Raises:
        InputError: The pass is longer than the model's context, or experts are among the matrices. The time of an
            expert depends on the tokens that are routed to it.
    """
    if checked.expert is not None:
        raise InputError(
            "objective",
            f"must not be a latency for a model with experts ({checked.expert}): the time of an expert depends on the "
            'tokens routed to it; leave experts dense by model.exclude: ["*.experts.*"], or ask for a share of the '
            "parameters",
        )
    rows, length = typical_batch(checked.task, "search", spec.resources.batch_tokens)
    workload = Workload(kind=objective.workload, rows=rows, length=length)
    if checked.context is not None and workload.context > checked.context:
        raise InputError(
            "objective.workload",
            f"{objective.workload} must stay within the model's context of {checked.context} tokens; "
            f"got {workload.length}",
        )
    return workload


def latency_plan(
    objective: TargetLatency, spec: JobSpec, checked: Checked, prepared: Prepared
) -> LatencyPlan:
    """Return the plan of the timing, under the conditions of an actor."""
    return LatencyPlan(
        model_folder=prepared.model.folder,
        matrices=prepared.matrices,
        rank_step=policy_of(spec).rank_step,
        workload=workload_of(objective, spec, checked),
        threads=spec.resources.threads_per_actor,
        device=spec.resources.device,
    )


def keep(log: JobLog, latency: Latency) -> None:
    """Record the latency table of a job."""
    log.event(EventType.LATENCY_MEASURED, **latency.to_json())


def kept(log: JobLog) -> Latency | None:
    """Return the table that an earlier run of the job recorded, or None."""
    data = log.last_event(EventType.LATENCY_MEASURED)
    return None if data is None else Latency.from_json(data)


def of_export(export: Export) -> Latency | None:
    """Return the latency table of the job that an export comes from, or None."""
    table = export.known[TABLE]
    return None if table is None else Latency.from_json(table)


def predicted(
    latency: Latency | None, matrices: Sequence[MatrixShape], ranks: Sequence[int], target: int | None = None
) -> dict[str, Any]:
    """Return the fields of a result before the export: the table and expected times.

    Args:
        latency: Latency table of the job, if it has one.
        matrices: Matrices of the model.
        ranks: Ranks of the matrices.
        target: Target in nanoseconds, if any.
    """
    if latency is None:
        return {"latency": None, "latency_table": None}
    target_share = None if target is None else target / latency.table.dense_nanoseconds
    workload = asdict(latency.workload)
    expected = {"workload": workload, "target_share": target_share, **_expected(latency, matrices, ranks)}
    return {"latency": expected, "latency_table": latency.to_json()}


def compared(
    summary: Mapping[str, Any], matrices: Sequence[MatrixShape], ranks: Sequence[int], spent: Spent | None
) -> dict[str, Any] | None:
    """Return the expected times beside the measured ones of the exported model."""
    if summary["latency"] is None or spent is None:
        return None
    expected = _expected(Latency.from_json(summary["latency_table"]), matrices, ranks)
    return {
        **summary["latency"],
        **expected,
        "measured_dense_ms": spent.dense_nanoseconds / 1e6,
        "measured_ms": spent.nanoseconds / 1e6,
        "measured_share": spent.nanoseconds / spent.dense_nanoseconds,
    }


def held(latency: Mapping[str, Any] | None, milliseconds: float | None = None) -> bool:
    """Return whether a model is as fast as required.

    Args:
        latency: Measured times.
        milliseconds: Target time; None: a share of the dense model's time, measured together.
    """
    if latency is None or latency["target_share"] is None:
        return True
    if milliseconds is not None:
        return bool(latency["measured_ms"] <= milliseconds * WITHIN)
    return bool(latency["measured_share"] <= latency["target_share"] * WITHIN)


def _expected(latency: Latency, matrices: Sequence[MatrixShape], ranks: Sequence[int]) -> dict[str, float]:
    table = latency.table
    nanoseconds, dense = table.nanoseconds(matrices, ranks), table.dense_nanoseconds
    return {
        "expected_dense_ms": dense / 1e6,
        "expected_ms": nanoseconds / 1e6,
        "expected_share": nanoseconds / dense,
    }
