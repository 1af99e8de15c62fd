"""Plans that the service gives to the workers, as plain values.

No torch, Ray or pydantic. `service.pipeline.pipeline` fills these from a validated job file; this package does not
validate them again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ranksieve.workers.types.metrics import FIELD_F1, METRIC_NAMES

SPLITS = ("calibration", "search", "confirm", "test")

GROUP = 16
"""Numbers that share a scale where weights have 4 bits. Ranks are multiples of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSource:
    """Location of the dense model, and patterns of the matrices to prune.

    `location` is a hub id, a folder or a gguf file, as `kind` says; local paths are absolute. `adapter`: folder of a
    LoRA adapter to merge into it, if any.
    """

    kind: Literal["hub", "path", "gguf"]
    location: str
    revision: str | None = None
    adapter: Path | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()

    @property
    def field(self) -> str:
        """Field of the job file that names the model, for error messages."""
        return "model.hub" if self.kind == "hub" else "model.path"


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordSource:
    """A file of records, or one split of a hub data set.

    `field` is the source's place in the job file, for error messages.
    """

    field: str
    path: Path | None = None
    hub_id: str | None = None
    config: str | None = None
    split: str = "train"
    revision: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DataPlan:
    """The record pool, splits with files of their own, and split sizes.

    `splits`: those that are made, by default the ones that `sizes` names; others get a size by the number of records.
    `group`: record field; records with the same value are never in different splits.
    """

    source: RecordSource | None
    files: Mapping[str, RecordSource] = field(default_factory=dict)
    sizes: Mapping[str, int]
    splits: Sequence[str] = ()
    group: str | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskPlan:
    """A task as templates over a record's fields; see `service.spec.TaskSpec`."""

    kind: Literal["choice", "generate", "lm"]
    prompt: str
    answer: str
    choices: Mapping[str, str] | None = None
    choices_field: str | None = None
    delimiter: str = " "
    chat_template: bool = False
    max_new_tokens: int = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """Answer tokens inside a row.

    The logits at `start .. start + len(ids) - 1` predict `ids`. `choice` is the index of the answer that these tokens
    spell (0 where the task has no choices).
    """

    choice: int
    start: int
    ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One token sequence to run through the model, and the answers read off it."""

    ids: tuple[int, ...]
    spans: tuple[Span, ...]

    @property
    def reads(self) -> int:
        """Number of positions whose logits predict answers; answers may share one."""
        return len({span.start + offset for span in self.spans for offset in range(len(span.ids))})


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One tokenized record.

    `rows` hold every (prompt, answer) pair. Answers that share the same input ids share a row, so that a task of
    one-token answers costs one row per example. `label` is the right choice (0 without choices). `references` are the
    accepted answer texts of `generate`, of which the rows hold the first. `end` is the token that ends them, if any.
    """

    rows: tuple[Row, ...]
    choices: int
    label: int
    prompt_ids: tuple[int, ...]
    references: tuple[str, ...] = ()
    end: int | None = None

    @property
    def answer_tokens(self) -> int:
        """Number of tokens of the answer, for tasks without choices."""
        return len(self.rows[0].spans[0].ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedTask:
    """The whole task, tokenized and split; `digest` identifies its content.

    `several_lines`: whether written answers go on behind a line break. `objects`: whether they are JSON objects, whose
    fields are compared.
    """

    kind: Literal["choice", "generate", "lm"]
    splits: Mapping[str, tuple[Example, ...]]
    max_new_tokens: int
    digest: str
    split_digests: Mapping[str, str]
    dropped_duplicates: int = 0
    several_lines: bool = False
    objects: bool = False

    @property
    def metric_name(self) -> str:
        """Name of the metric."""
        return FIELD_F1 if self.objects else METRIC_NAMES[self.kind]

    def can_be_written(self, example: Example) -> bool:
        """Return whether a model could write an example's first reference whole."""
        tokens = example.answer_tokens - (example.end is not None)
        lines_fit = self.several_lines or not has_line_break(example.references[0])
        return tokens <= self.max_new_tokens and lines_fit


def has_line_break(text: str) -> bool:
    """Return whether a text has several lines, apart from blanks at its ends."""
    return "\n" in text.strip()
