"""Numbers of a finished job: its result, and the provenance in its model."""

import platform
from typing import Any

from ranksieve.search.errors import ScoringError
from ranksieve.search.evolution.evolution import Evolution
from ranksieve.search.evolution.outcome import Outcome
from ranksieve.search.space.objectives import TargetBytes, TargetLatency
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.statistics.intervals import DropInterval, mean_interval, paired_drop
from ranksieve.service.job.export import Export
from ranksieve.service.job.job import Job
from ranksieve.service.pipeline import latency
from ranksieve.service.pipeline.confirmation import Confirmed, Winner, promise_notes
from ranksieve.service.pipeline.fingerprints import data_of, model_of
from ranksieve.service.pipeline.scoring import TaskScorer
from ranksieve.service.pipeline.search_plan import SearchPlan
from ranksieve.service.policy import policy_of
from ranksieve.service.server.capabilities import versions
from ranksieve.service.spec import JobSpec
from ranksieve.workers.export.verification import Verified
from ranksieve.workers.export.writer import Exported
from ranksieve.workers.factors.prepared import Prepared
from ranksieve.workers.model.loading import weight_bytes
from ranksieve.workers.preflight import Checked


def summary(
    spec: JobSpec,
    plan: SearchPlan,
    checked: Checked,
    prepared: Prepared,
    scorer: TaskScorer,
    winner: Winner,
    evolution: Evolution,
) -> dict[str, Any]:
    """Return everything known before the export."""
    assert winner.test is not None
    assert winner.test_drop is not None
    splits = {"confirm": winner.confirm, "test": winner.test}
    best_metric = {name: scorer.metric(scores) for name, scores in splits.items()}
    kl_nats = {name: float(scores.kl_nats.mean()) for name, scores in splits.items()}
    space, known = plan.space, evolution.scored(winner.genome)
    if known and known.metric is not None and known.kl_nats is not None:
        best_metric["search"], kl_nats["search"] = known.metric, known.kl_nats
    return {
        "metric_name": checked.task.metric_name,
        "objective": spec.objective.model_dump(mode="json"),
        "target_bytes": plan.objective.size_bytes if isinstance(plan.objective, TargetBytes) else None,
        **latency.predicted(plan.latency, space.matrices, space.ranks(winner.genome), _wanted(plan)),
        "train_epochs": policy_of(spec).train_epochs,
        "confidence": winner.confidence,
        "promise_held": winner.held,
        "notes": promise_notes(spec),
        **_choice(winner.genome, space),
        "search_ended": "by itself" if evolution.finished else "stopped",
        "generations": evolution.generation,
        "evaluations": evolution.evaluations,
        "tokens": evolution.tokens,
        "data": data_of(checked.task),
        "model": model_of(prepared),
        "bits": spec.bits,
        "reference": _reference(scorer, prepared),
        "dense": {
            **_dense(scorer, prepared),
            "block_params": prepared.dense_block_params,
            "total_params": prepared.dense_total_params,
        },
        "best": {
            "metric": best_metric,
            "interval": {"test": scorer.interval(winner.test)},
            "kl_nats": kl_nats,
            "drop": {"confirm": _drop(winner.confirm_drop), "test": _drop(winner.test_drop)},
            **_drop_from_dense(winner, prepared),
            **_counts(winner.genome, space, prepared),
        },
        "finalists": [_finalist(one, space, scorer) for one in winner.confirmed],
        "front": [_point(outcome, space) for outcome in evolution.front()],
    }


def export_summary(spec: JobSpec, export: Export, space: SearchSpace, prepared: Prepared) -> dict[str, Any]:
    """Return all that is known of an archived candidate before its export.

    It says on which splits numbers were measured. A model that was no finalist was never confirmed, and only the winner
    of a job meets its test split.
    """
    candidate, confirmed = export.candidate, export.finalist
    metric, kl_nats = {"search": candidate["metric"]}, {"search": candidate["kl_nats"]}
    drops = {"search": {"drop_points": candidate["drop_points"], "drop_low": None, "drop_high": None}}
    if confirmed is not None:
        metric["confirm"], kl_nats["confirm"] = confirmed["metric"], confirmed["kl_nats"]
        drops["confirm"] = {name: confirmed[name] for name in ("drop_points", "drop_low", "drop_high")}
    dense, reference = export.known["dense"], export.known["reference"]

    def shared(metrics: dict[str, float]) -> dict[str, float]:
        return {name: value for name, value in metrics.items() if name in metric}

    return {
        **export.known,
        "objective": spec.objective.model_dump(mode="json"),
        "bits": spec.bits,
        "export": {
            "job": export.job,
            "asked": export.asked,
            "measured_on": list(metric),
            "search_examples": spec.sizes["search"],
        },
        "target_bytes": None,
        **latency.predicted(latency.of_export(export), space.matrices, space.ranks(export.genome)),
        "promise_held": None,
        **_choice(export.genome, space),
        "reference": {**reference, "metric": shared(reference["metric"]), "interval": {}},
        "dense": {
            "metric": shared(dense["metric"]),
            "block_params": prepared.dense_block_params,
            "total_params": prepared.dense_total_params,
        },
        "best": {
            "metric": metric,
            "kl_nats": kl_nats,
            "drop": drops,
            **_counts(export.genome, space, prepared),
        },
    }


def _wanted(plan: SearchPlan) -> int | None:
    """Return the target in nanoseconds, if the objective has one."""
    return plan.objective.nanoseconds if isinstance(plan.objective, TargetLatency) else None


def _reference(scorer: TaskScorer, prepared: Prepared) -> dict[str, Any]:
    """Return the dense model with the candidates' help, which drops are measured from."""
    tuned = prepared.tuned
    return {
        "metric": {name: scorer.metric(scores) for name, scores in scorer.dense.items()},
        "interval": {"test": scorer.interval(scorer.dense["test"])},
        "tuned": tuned is not None and tuned.model != tuned.given,
        "blocks": None if tuned is None else [tuned.blocks, tuned.all_blocks],
    }


def _dense(scorer: TaskScorer, prepared: Prepared) -> dict[str, Any]:
    """Return the metrics of the dense model as it was given, and with offsets."""
    if (tuned := prepared.tuned) is None:
        return {
            "metric": {name: scorer.metric(scores) for name, scores in scorer.plain.items()},
            "interval": {"test": scorer.interval(scorer.plain["test"])},
        }
    return {
        "metric": {split: float(quality_E.mean()) for split, quality_E in tuned.quality.items()},
        "interval": {"test": list(mean_interval(tuned.quality["test"]))},
        "helped": {split: float(quality_E.mean()) for split, quality_E in tuned.helped.items()},
    }


def _choice(genome: Genome, space: SearchSpace) -> dict[str, Any]:
    """Return the genome of a model, and the rank of every matrix by name."""
    names = [matrix.name for matrix in space.matrices]
    return {"genome": list(genome), "ranks": dict(zip(names, space.ranks(genome), strict=True))}


def _counts(genome: Genome, space: SearchSpace, prepared: Prepared) -> dict[str, Any]:
    """Return the parameters of a model, in the blocks and in total.

    Some matrices of the blocks are not searched over and stay as they are.
    """
    block_params, total_params = prepared.params_with(space.params(genome))
    return {
        "block_params": block_params,
        "kept_block_params": block_params / prepared.dense_block_params,
        "total_params": total_params,
    }


def _finalist(one: Confirmed, space: SearchSpace, scorer: TaskScorer) -> dict[str, Any]:
    """Return the confirmed numbers of a finalist.

    Interval and risk are those of the finalist alone, not of all finalists together. The interval does not decide: on
    few records a bootstrap is less reliable than the risk.
    """
    return {
        "kept_share": space.kept_share(one.genome),
        "genome": list(one.genome),
        "metric": scorer.metric(one.scores),
        "kl_nats": float(one.scores.kl_nats.mean()),
        **_drop(one.drop),
        "risk": one.risk,
        "passed": one.passed,
    }


def _point(outcome: Outcome, space: SearchSpace) -> dict[str, Any]:
    """Return a point of the front, as measured on the search split."""
    names = ("kl_nats", "loss_nats", "drop_points", "drop_bound", "metric")
    return {
        "kept_share": space.kept_share(outcome.genome),
        **{name: getattr(outcome, name) for name in names},
    }


def provenance(job: Job, checked: Checked, summary: dict[str, Any]) -> dict[str, Any]:
    """Return the provenance of a model: source, task, seed, versions, numbers.

    It is published with the model, so of the job file it names only what is public, and a digest of the rest. Whether
    the model is as small or as fast as promised is not known before the export.
    """
    spec = job.spec
    pool = spec.task.data
    sources = [source for source in (pool.source, *pool.files.values()) if source is not None]
    wanted = (summary["target_bytes"], (summary["latency"] or {}).get("target_share"))
    return {
        "job_id": job.id,
        "job_sha256": spec.digest(),
        "name": job.name,
        "model": {
            "hub": spec.model.hub,
            "revision": spec.model.revision,
            "adapter": spec.model.adapter is not None,
            "licence": dict(checked.licence),
        },
        "task": {"kind": spec.task.kind, "prompt": spec.task.prompt},
        "datasets": sorted({source.hub.id for source in sources if source.hub is not None}),
        "seed": spec.seed,
        "versions": {"python": platform.python_version(), **versions()},
        "summary": summary if wanted == (None, None) else {**summary, "promise_held": None},
    }


def result(
    summary: dict[str, Any],
    prepared: Prepared,
    exported: Exported,
    verified: Verified,
    seconds: dict[str, float],
) -> dict[str, Any]:
    """Return the job's result: the summary, measurements of the export, its place.

    A promised file size is checked on the files themselves, a promised latency on the exported model. Matrices of a
    sublayer that lost its output are not exported, whatever their rank in the genome; `left_out_params` is what the
    search counted for them.
    """
    expected = summary["best"]["total_params"] - sum(exported.dead.values())
    if exported.total_params != expected:
        raise ScoringError(f"the export has {exported.total_params} parameters, expected {expected}")
    dense = {
        **summary["dense"],
        "file_bytes": weight_bytes(prepared.given.folder),
        "tokens_per_second": verified.dense_tokens_per_second,
    }
    best = {
        **summary["best"],
        "block_params": exported.block_params,
        "kept_block_params": exported.block_params / prepared.dense_block_params,
        "total_params": exported.total_params,
        "left_out_params": sum(exported.dead.values()),
        "file_bytes": exported.file_bytes,
        "tokens_per_second": verified.tokens_per_second,
    }
    ranks = {**summary["ranks"], **dict.fromkeys(exported.dead, 0)}
    target_bytes = summary["target_bytes"]
    compared = latency.compared(summary, prepared.matrices, list(ranks.values()), verified.spent)
    small = target_bytes is None or exported.file_bytes <= target_bytes
    fast = latency.held(compared, summary["objective"].get("milliseconds"))
    held = summary["promise_held"] and small and fast
    measured = {"ranks": ranks, "dense": dense, "best": best, "latency": compared, "promise_held": held}
    return {**summary, **measured, "artifact": str(exported.folder), "seconds": seconds}


def _drop_from_dense(winner: Winner, prepared: Prepared) -> dict[str, Any]:
    """Return the test drop from the given model, if that is not the reference."""
    if prepared.tuned is None:
        return {}
    assert winner.test is not None
    dense_E, best_E = prepared.tuned.quality["test"], winner.test.quality
    drop = paired_drop(dense_E, best_E, confidence=winner.confidence, seed=winner.seed)
    return {"drop_from_dense": {"test": _drop(drop)}}


def _drop(drop: DropInterval) -> dict[str, float]:
    """Return a drop and its 95 % interval, in points, as events name them."""
    return {"drop_points": drop.estimate, "drop_low": drop.low, "drop_high": drop.high}
