"""Checks of everything a job needs before hours are spent on it.

Reads the configuration, the tokenizer and the records, and tokenizes the task. Weights are only checked to exist.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from transformers import PreTrainedModel

from ranksieve.search.errors import InputError
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.cache.folders import FolderCache
from ranksieve.workers.data.encoding import encode
from ranksieve.workers.machine.child import step
from ranksieve.workers.model.adapter import fit_adapter
from ranksieve.workers.model.checks import check_sizes
from ranksieve.workers.model.experts import expert_of
from ranksieve.workers.model.filesize import Remainder, remainder
from ranksieve.workers.model.licence import licence_of
from ranksieve.workers.model.loading import embeddings_of
from ranksieve.workers.model.matrices import find_matrices
from ranksieve.workers.model.rounding import check_rounding
from ranksieve.workers.model.sources import (
    Weights,
    context_length,
    empty_model,
    head_folder,
    load_config,
    load_tokenizer,
    resolve,
)
from ranksieve.workers.types.plan import DataPlan, EncodedTask, ModelSource, TaskPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """A job that can run: model, matrices to prune, remainder and tokenized task.

    `model` is local. `expert`: name of a matrix that belongs to an expert, if any. `context`: longest sequence of the
    model in tokens, if the model states one. `by_block`: whether each block needs only the hidden states behind the
    previous one, so that the model can be cut and tuned. `licence`: licence fields of the model's own card.
    """

    model: ModelSource
    matrices: tuple[MatrixShape, ...]
    remainder: Remainder
    task: EncodedTask
    context: int | None
    expert: str | None = None
    by_block: bool = True
    licence: Mapping[str, str] = field(default_factory=dict)


def check(
    model: ModelSource,
    task: TaskPlan,
    data: DataPlan,
    models: FolderCache,
    *,
    weights: Weights = "fetched",
    bits: int | None = None,
) -> Checked:
    """Check the model and the task.

    Args:
        model: The model.
        task: The task.
        data: The records, and how they are split.
        models: Cache of prepared models.
        weights: What is required of the model's weights.
        bits: Bits of a weight in the exported files, if they are few.

    Raises:
        InputError: A check fails; the error names the field of the job file.
    """
    step("model", "reading the model's configuration")
    local = resolve(model, weights)
    head = head_folder(local, models)
    config = load_config(head)
    empty = empty_model(config)
    if bits is not None:
        check_rounding(empty)
    if model.adapter is not None:
        fit_adapter(model.adapter, empty)
    matrices = find_matrices(empty, model.include, model.exclude)
    context = context_length(config)
    step("model", "reading the model's tokenizer")
    encoded = encode(task, data, load_tokenizer(head), context)
    _require_embeddings(encoded, empty)
    if model.kind != "hub" or weights == "fetched":  # else some files may be missing yet
        check_sizes(replace(local, kind=model.kind), empty.num_parameters())
    return Checked(
        model=local,
        matrices=matrices,
        remainder=remainder(empty, matrices),
        task=encoded,
        context=context,
        expert=next((m.name for m in matrices if expert_of(empty, m.name) is not None), None),
        by_block=not getattr(config.get_text_config(), "num_kv_shared_layers", None),
        licence=licence_of(local),
    )


def _require_embeddings(task: EncodedTask, model: PreTrainedModel) -> None:
    known = embeddings_of(model)
    rows = (row for examples in task.splits.values() for example in examples for row in example.rows)
    largest = max(max(*row.ids, *(token for span in row.spans for token in span.ids)) for row in rows)
    if largest >= known:
        raise InputError(
            "model",
            f"has {known:,} embeddings, but its tokenizer produces token {largest:,} for the records; resize the "
            "embeddings to the tokenizer, or use the tokenizer that the model was trained with",
        )
