"""`task` of a job file: what the model has to do, and on which records."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from ranksieve.service.spec.strict import ADVANCED, LONGEST_TEXT, Revision, Strict, Texts

SplitName = Literal["calibration", "search", "confirm", "test"]
KindName = Literal["choice", "generate", "lm"]

MOST_RECORDS = 1_000_000
"""Most records of one split."""

LEAST_JUDGES = 8
"""Least records of a split that models are judged on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskKind:
    """Meaning of a kind of task, and its demands on the fields of `task`.

    `needs`: must not be empty. `refuses`: none is given.
    """

    meaning: str
    needs: tuple[str, ...] = ()
    refuses: tuple[str, ...] = ()


TASK_KINDS: Mapping[KindName, TaskKind] = MappingProxyType(
    {
        "choice": TaskKind(
            meaning="The model picks the answer of highest log-likelihood, out of choices for all records or each "
            "record's own.",
            needs=("prompt", "choices"),
        ),
        "generate": TaskKind(
            meaning="The model writes the answer greedily.", needs=("prompt",), refuses=("choices",)
        ),
        "lm": TaskKind(
            meaning="The model predicts every token of `answer`, after `prompt` where there is one.",
            refuses=("choices",),
        ),
    }
)


class HubDataset(Strict):
    """One split of a data set on the Hugging Face hub, read through `datasets`."""

    id: str = Field(description="Data set on the Hugging Face hub, e.g. `fancyzhx/ag_news`.")
    config: str | None = Field(None, description="Configuration of the data set.", json_schema_extra=ADVANCED)
    split: str = Field("train", description="Split of the data set.", json_schema_extra=ADVANCED)
    revision: Revision | None = Field(
        None, description="Commit, tag or branch of the data set.", json_schema_extra=ADVANCED
    )


class DataSource(Strict):
    """Records from a jsonl, csv or parquet file under the data roots, or from the hub."""

    path: str | None = Field(
        None, description="File ending in .jsonl, .csv or .parquet, one record a line or row."
    )
    hub: HubDataset | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give exactly one of path and hub")
        return self


SPLITS: tuple[SplitName, ...] = get_args(SplitName)


class DataSpec(Strict):
    """Sources of the records and their division into splits, which never overlap.

    `source` is the pool that every split without a file of its own in `files` is drawn from.
    """

    source: DataSource | None = None
    files: dict[SplitName, DataSource] = Field(
        default_factory=dict,
        description="Files for single splits: `calibration`, `search`, `confirm`, `test`.",
        json_schema_extra=ADVANCED,
    )
    sizes: dict[SplitName, Annotated[int, Field(ge=1, le=MOST_RECORDS)]] = Field(
        default_factory=dict,
        description="Records of each split. Default: by the number of records that there are.",
        json_schema_extra=ADVANCED,
    )
    group: str | None = Field(
        None,
        description="Record field, such as a passage with several questions. Records with the same value are never in "
        "different splits.",
        json_schema_extra=ADVANCED,
    )

    @model_validator(mode="after")
    def _every_split_has_records(self) -> Self:
        missing = [name for name in SPLITS if name not in self.files]
        if self.source is None and missing:
            raise ValueError(f"no records for {', '.join(missing)}: give source, or a file for each of them")
        for name, size in self.sizes.items():
            if name != "calibration" and size < LEAST_JUDGES:
                raise ValueError(f"sizes.{name} must be at least {LEAST_JUDGES}; got {size}")
        return self


class TaskSpec(Strict):
    """Task of the model, as Jinja templates over a record's fields."""

    kind: KindName = Field(
        description=" ".join(f"`{name}`: {kind.meaning}" for name, kind in TASK_KINDS.items())
    )
    prompt: str = Field(
        "",
        max_length=LONGEST_TEXT,
        description="Jinja template of the text that the model reads. With `chat_template`, one expression may give a "
        "list of messages with `role` and `content`, e.g. `{{ messages[:-1] }}`: the conversation to answer.",
    )
    answer: str = Field(
        min_length=1,
        max_length=LONGEST_TEXT,
        description="Jinja template of the right answer, or label. `generate`: `{{ FIELD }}` may be a list of right "
        "answers; the best match counts, by the F1 of its words or, if all right answers of the calibration records "
        "are JSON objects, of its fields. The model's answer ends at its first line break; or, if a right answer of "
        "the calibration records has several lines, at its end token.",
    )
    choices: dict[str, str] | Texts | str | None = Field(
        None,
        max_length=10_000,
        description="`choice`: label → answer text, a list of labels that are their own text, or the name of the "
        "record field with each record's own options.",
    )
    delimiter: str = Field(
        " ",
        description="Text between prompt and answer; unused with `chat_template`.",
        json_schema_extra=ADVANCED,
    )
    chat_template: bool = Field(
        False,
        description="Wrap the prompt with the tokenizer's chat template: a text as the user's message, or a whole "
        "conversation.",
        json_schema_extra=ADVANCED,
    )
    max_new_tokens: int = Field(
        32, ge=1, le=4096, description="`generate`: longest answer, in tokens.", json_schema_extra=ADVANCED
    )
    data: DataSpec

    @model_validator(mode="after")
    def _fields_fit_kind(self) -> Self:
        kind = TASK_KINDS[self.kind]
        refused = [name for name in kind.refuses if getattr(self, name) is not None]
        if refused:
            raise ValueError(f"kind {self.kind} takes no {' and no '.join(refused)}; remove it")
        empty = [name for name in kind.needs if not getattr(self, name)]
        if empty:
            raise ValueError(f"{' and '.join(empty)} must not be empty for kind {self.kind}")
        if isinstance(self.choices, dict | tuple) and len(set(self.choices)) < 2:
            raise ValueError(f"choices needs at least 2 different labels, got {list(self.choices)}")
        return self
