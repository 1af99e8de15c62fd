"""What a job has found, as plain values of the API."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ranksieve.workers.types.metrics import METRIC_NAMES, drop_unit

Row = Mapping[str, Any]

Ranks = tuple[str, Row]
"""What a model is called, and what the API says of its ranks."""

FIELDS = ("id", "generation", "kept_share", "kl_nats", "loss_nats", "drop_points", "failure")
"""Fields of a candidate that figures show."""

EVENTS = ("job.state", "model.tuned", "finalist.confirmed")
"""Types of events that tell what a job without a result has found."""

EXPORTED_MODEL = "the exported model"
"""What a rank map calls the model of a result, as the page does."""

_PROMISED = ("max_drop", "pareto")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Candidates, finalists and dense models of a job.

    Args:
        candidates: Scorings that did not fail, smallest first.
        finalists: Those that were confirmed, with intervals.
        unit: Unit of drops.
        promise: Largest drop that is promised.
        reference_share: Share of the blocks in the dense model that drops are measured from.
        given: Split, and drop there, of the dense model as it was given, where that is not the reference.
        exported: The finalist that was exported.
    """

    candidates: Sequence[Row]
    finalists: Sequence[Row]
    unit: str
    promise: float | None
    reference_share: float = 1.0
    given: tuple[str, float] | None = None
    exported: Row | None = None

    @property
    def has_drops(self) -> bool:
        """Whether losses can be shown as the task's metric counts them."""
        return bool(self.finalists) or any(one["drop_points"] is not None for one in self.candidates)


def loss_of(candidate: Row) -> float:
    """Return what the search minimises, in nats."""
    loss: float | None = candidate["loss_nats"]
    return float(candidate["kl_nats"]) if loss is None else loss


def found_by(job: Row, candidates: Sequence[Row], events: Sequence[Row]) -> Found:
    """Return what a job has found so far.

    Args:
        job: The job.
        candidates: Its scorings, with `FIELDS`.
        events: Its events of `EVENTS`, in order; they count if it has no result.
    """
    if job["result"] is not None:
        return found_in(job["result"], candidates)
    finalists: list[Row] = []
    share = 1.0
    for event in events:
        data = event["data"]
        if event["type"] == "finalist.confirmed":
            finalists.append(data)
        elif event["type"] == "model.tuned":
            share = data["blocks"] / data["all_blocks"] if data["used"] else 1.0
        elif data["state"] == "validating":  # a run that begins again confirms again
            finalists = []
    spec = job["spec"]
    return Found(
        candidates=_scored(candidates),
        finalists=finalists,
        unit=drop_unit(METRIC_NAMES[spec["task"]["kind"]]),
        promise=_promise(spec["objective"]),
        reference_share=share,
    )


def found_in(result: Row, candidates: Sequence[Row]) -> Found:
    """Return what a job with a result has found."""
    finalists = result.get("finalists") or ()
    reference = result["reference"]
    blocks, of = reference["blocks"] if reference["tuned"] else (1, 1)
    return Found(
        candidates=_scored(candidates),
        finalists=finalists,
        unit=drop_unit(result["metric_name"]),
        promise=_promise(result["objective"]),
        reference_share=blocks / of,
        given=_given(result),
        exported=next((one for one in finalists if one["genome"] == result["genome"]), None),
    )


def _scored(candidates: Sequence[Row]) -> list[Row]:
    scored = (one for one in candidates if one["failure"] is None)
    return sorted(scored, key=lambda one: (one["kept_share"], loss_of(one)))


def _promise(objective: Row) -> float | None:
    return objective["points"] if objective["kind"] in _PROMISED else None


def _given(result: Row) -> tuple[str, float] | None:
    """Return the split and the drop of the dense model as it was given.

    None if drops are measured from that model.
    """
    dense, reference = result["dense"]["metric"], result["reference"]["metric"]
    for split in ("confirm", "test"):
        given, helped = dense.get(split), reference.get(split)
        if given is not None and helped is not None and given != helped:
            is_lm = result["metric_name"] == METRIC_NAMES["lm"]
            return split, 100 * (given / helped - 1 if is_lm else helped - given)
    return None
