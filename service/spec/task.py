"""`task` of a job file: what the model has to do, and with which records."""

from typing import Literal, Self

from pydantic import Field, model_validator

from service.spec.strict import LONGEST_TEXT, Revision, Strict, Texts

SplitName = Literal["calibration", "search", "confirm", "test"]


class HubDataset(Strict):
    """One split of a data set on the Hugging Face hub, read through `datasets`."""

    id: str
    config: str | None = None
    split: str = "train"
    revision: Revision | None = None


class DataSource(Strict):
    """Records from a jsonl, csv or parquet file under the data roots, or from the hub."""

    path: str | None = Field(None, description="File ending in .jsonl, .csv or .parquet.")
    hub: HubDataset | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give exactly one of path and hub")
        return self


class SplitSizes(Strict):
    """Records per split."""

    calibration: int = Field(256, ge=1, le=1_000_000)
    search: int = Field(256, ge=8, le=1_000_000)
    confirm: int = Field(512, ge=8, le=1_000_000)
    test: int = Field(1000, ge=8, le=1_000_000)


class DataSpec(Strict):
    """Where the records come from and how they are divided; splits never overlap.

    `source` is the pool that every split without a file of its own in `files` is drawn from.
    """

    source: DataSource | None = None
    files: dict[SplitName, DataSource] = Field(default_factory=dict)
    sizes: SplitSizes = Field(default_factory=SplitSizes)
    seed: int = Field(0, ge=0, le=2**32 - 1)

    @model_validator(mode="after")
    def _every_split_has_records(self) -> Self:
        missing = [name for name in SplitSizes.model_fields if name not in self.files]
        if self.source is None and missing:
            raise ValueError(f"no records for {', '.join(missing)}: give source, or a file for each of them")
        return self


class TaskSpec(Strict):
    """What the model has to do, as Jinja templates over a record's fields.

    `choice`: the model picks the answer of highest log-likelihood. `generate`: it writes the answer
    greedily. `lm`: it predicts every token of `answer` (after `prompt`, which may be empty).
    """

    kind: Literal["choice", "generate", "lm"]
    prompt: str = Field("", max_length=LONGEST_TEXT)
    answer: str = Field(
        min_length=1, max_length=LONGEST_TEXT, description="Template of the right answer (or label)."
    )
    choices: dict[str, str] | Texts | None = Field(
        None,
        max_length=10_000,
        description="`choice`: label → answer text, or a list of labels that are their own text.",
    )
    choices_field: str | None = Field(None, description="`choice`: record field with that record's options.")
    delimiter: str = Field(" ", description="Put between prompt and answer; unused with chat_template.")
    chat_template: bool = Field(False, description="Wrap the prompt with the tokenizer's chat template.")
    max_new_tokens: int = Field(32, ge=1, le=4096, description="`generate`: longest answer, in tokens.")
    data: DataSpec

    @model_validator(mode="after")
    def _choices_fit_kind(self) -> Self:
        if self.kind == "choice" and (self.choices is None) == (self.choices_field is None):
            raise ValueError("kind choice needs exactly one of choices and choices_field")
        if self.kind != "choice" and (self.choices is not None or self.choices_field is not None):
            raise ValueError(f"choices belong to kind choice, not to {self.kind}")
        if self.choices is not None and len(set(self.choices)) < 2:
            raise ValueError(f"choices needs at least 2 different labels, got {list(self.choices)}")
        if self.kind != "lm" and not self.prompt:
            raise ValueError(f"prompt must not be empty for kind {self.kind}")
        return self
