"""Model card of an exported folder: metadata for a hub, and prose for people."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.workers.types.metrics import drop_unit

TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
)

PRIVATE = "private records"
"""Data set of results on records that are on no hub."""

_HUB_METRICS = {"token_f1": "f1", "field_f1": "f1"}
"""Names that the hub has for our metrics, where they differ."""

_MOST_NAMES = 8
"""Most matrices of a block that are named; a mixture has hundreds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Row of the card's table: matrices of a block by form, and the kept share."""

    layer: int
    dense: int
    ranks: Sequence[int]
    removed: Sequence[str]
    kept_share: float

    @property
    def low_rank(self) -> str:
        """Number of low-rank matrices, and the range of their ranks."""
        if not self.ranks:
            return "0"
        return f"{len(self.ranks)} (rank {min(self.ranks)} to {max(self.ranks)})"

    @property
    def removed_names(self) -> str:
        """Names of the removed matrices, or their number."""
        many = len(self.removed) > _MOST_NAMES
        return str(len(self.removed)) if many else ", ".join(self.removed)


def model_card(
    provenance: Mapping[str, Any], matrices: Sequence[MatrixShape], ranks: Sequence[int], **facts: Any
) -> str:
    """Return the text of README.md.

    Args:
        provenance: See `service.pipeline.report.provenance`.
        matrices: Searched matrices.
        ranks: Their ranks in the files.
        facts: More values of the template.
    """
    body = TEMPLATES.get_template("README.md.jinja").render(
        **provenance,
        **facts,
        title=_title(provenance),
        blocks=list(_blocks(matrices, ranks)),
        drop_unit=drop_unit(provenance["summary"]["metric_name"]),
    )
    return f"---\n{metadata(provenance).to_yaml()}\n---\n\n{body}"


def metadata(provenance: Mapping[str, Any]) -> ModelCardData:
    """Return the metadata that a hub reads."""
    metric = _hub_metric(provenance)
    result = _result(provenance, metric)
    return ModelCardData(
        base_model=provenance["model"]["hub"],
        **provenance["model"]["licence"],
        datasets=provenance["datasets"] or None,
        pipeline_tag="text-generation",
        library_name="transformers",
        tags=["ranksieve", "low-rank", "pruned"],
        metrics=[metric],
        model_name=_title(provenance),
        eval_results=None if result is None else [result],
    )


def _result(provenance: Mapping[str, Any], metric: str) -> EvalResult | None:
    """Return the result on the test split, else the confirm split.

    That on the search split is never shown to a hub: candidates were chosen by it.
    """
    best, datasets = provenance["summary"]["best"], provenance["datasets"]
    split = next((name for name in ("test", "confirm") if name in best["metric"]), None)
    if split is None:
        return None
    interval = best.get("interval", {}).get(split)
    return EvalResult(
        task_type="text-generation",
        dataset_type=datasets[0] if len(datasets) == 1 else "private",
        dataset_name=datasets[0] if len(datasets) == 1 else PRIVATE,
        dataset_split=split,
        metric_type=metric,
        metric_name=f"{provenance['summary']['metric_name']}, {split} split of the job",
        metric_value=best["metric"][split],
        metric_args=None if interval is None else {"confidence": 0.95, "interval": interval},
    )


def _hub_metric(provenance: Mapping[str, Any]) -> str:
    name = str(provenance["summary"]["metric_name"])
    return _HUB_METRICS.get(name, name)


def _title(provenance: Mapping[str, Any]) -> str:
    hub = provenance["model"]["hub"]
    return provenance["name"] or (f"{hub.rpartition('/')[2]}, pruned" if hub else "Pruned model")


def _blocks(matrices: Sequence[MatrixShape], ranks: Sequence[int]) -> Iterator[Block]:
    pairs = list(zip(matrices, ranks, strict=True))
    for layer in sorted({matrix.layer for matrix in matrices}):
        here = [(matrix, rank) for matrix, rank in pairs if matrix.layer == layer]
        yield Block(
            layer=layer,
            dense=sum(rank == DENSE for _, rank in here),
            ranks=[rank for _, rank in here if rank > 0],
            removed=[matrix.kind for matrix, rank in here if rank == 0],
            kept_share=sum(m.price(rank) for m, rank in here) / sum(m.dense_params for m, _ in here),
        )
