"""The job file: one pydantic model, the same in YAML on the command line and JSON over REST.

Knows nothing of tensors, actors or HTTP. Checks what can be checked without reading a file;
`workers.preflight` and `service.search_plan` check the rest before any work starts.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ByteSize, ConfigDict, Field, StringConstraints, model_validator

StorageName = Literal["pairs", "pivoted"]
MethodName = Literal["task", "output", "input", "weight"]
FisherName = Literal["true", "empirical"]
DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
SplitName = Literal["calibration", "search", "confirm", "test"]
MOST_SEEDS = 1000
Name = Annotated[str, Field(max_length=200)]
Priority = Annotated[int, Field(ge=-100, le=100)]
Generations = Annotated[int, Field(ge=0, le=100_000)]
Evaluations = Annotated[int, Field(ge=1, le=10_000_000)]

LONGEST_TEXT = 100_000
"""Most characters of any text in a job file."""

Texts = Annotated[tuple[str, ...], Field(strict=False)]
"""A list is taken for one: neither JSON nor YAML has tuples."""

Revision = Annotated[str, StringConstraints(pattern=r"^\w[\w-]*([./]\w[\w-]*)*$", max_length=200)]
"""A commit, tag or branch as git allows it: it becomes part of a path, and `..` in it would lead elsewhere."""


class Strict(BaseModel):
    """Unknown fields are errors, and nothing is taken for what it is not: no text for a number, no number for true.

    A parsed spec never changes. No text is endless, or half of a surrogate pair: where pydantic counts the characters
    of a text it finds that, too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, str_max_length=LONGEST_TEXT)

    @model_validator(mode="before")
    @classmethod
    def _whole_numbers(cls, values: Any) -> Any:
        """To JSON Schema, and to JavaScript, 2.0 is an integer."""
        if not isinstance(values, dict):
            return values
        return {
            name: int(value) if isinstance(value, float) and value.is_integer() else value
            for name, value in values.items()
        }


class ModelSpec(Strict):
    """The dense model to prune: exactly one of `hub`, `path` and `gguf`."""

    hub: str | None = Field(
        None, description="Hugging Face hub id, e.g. `HuggingFaceTB/SmolLM2-135M-Instruct`."
    )
    revision: Revision | None = Field(None, description="Commit, tag or branch of the hub repository.")
    path: str | None = Field(None, description="Local folder in `save_pretrained` layout, safetensors only.")
    gguf: str | None = Field(None, description="Local gguf file; it is de-quantized.")
    dtype: DtypeName = Field("auto", description="`auto`: bfloat16 where the device multiplies it natively.")
    include: Texts = Field(
        ("*",), min_length=1, max_length=1000, description="Shell patterns of matrix names to prune."
    )
    exclude: Texts = Field((), max_length=1000, description="Shell patterns of matrix names to leave dense.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("hub", "path", "gguf") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of hub, path and gguf; got {' and '.join(given) or 'none'}")
        if self.revision is not None and self.hub is None:
            raise ValueError("revision belongs to hub; remove it or name a hub id")
        return self


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


class ProjectionSpec(Strict):
    """How each matrix is factored, how its ranks are stored and which of them are levels."""

    method: MethodName = "task"
    fisher: FisherName = Field(
        "true",
        description="`task` only, whose gradients: `true` of the model's own distribution over the answers, "
        "`empirical` of the right answers' likelihood.",
    )
    storage: StorageName = Field(
        "pairs",
        description="`pairs`: two thin factors. `pivoted`: some rows of the matrix and how the others follow from "
        "them; fewer parameters at the same rank.",
    )
    rank_step: int = Field(16, ge=1, le=4096, description="Ranks are multiples of this, below break-even.")
    gram_examples: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="Of the calibration split, so many give the second moments; null: all. Training takes all.",
    )
    refine_epochs: int = Field(
        0,
        ge=0,
        le=1000,
        description="Passes over the calibration split that train the factors on the loss of the search, at many sizes "
        "at once; 0 leaves them as the closed form gave them.",
    )
    refit: float | None = Field(
        0.5,
        ge=0,
        le=1,
        description="Finalists' left factors are fitted to the inputs that their matrices see, towards outputs with "
        "this share of the dense model's flow in them; kept where the loss on the search split falls. Null: never.",
    )
    refine_learning_rate: float = Field(2e-4, gt=0, le=1, description="Highest, of AdamW.")


class ConstraintSpec(Strict):
    """A demand on the matrices whose names match; several demands on a matrix hold together."""

    matrices: Texts = Field(
        min_length=1, max_length=1000, description="Shell patterns of matrix names, as for `model.include`."
    )
    layers: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] | None = Field(
        None, strict=False, description="First and last layer that it is about."
    )
    min_density: float = Field(0.0, ge=0, le=1, description="Least share of its parameters that each keeps.")
    max_density: float = Field(1.0, ge=0, le=1)
    min_rank: int = Field(0, ge=0, description="Least rank; dense counts as the smaller width.")
    max_rank: int | None = Field(None, ge=0)
    frozen: Literal["dense"] | Annotated[int, Field(ge=0)] | None = Field(
        None, description="The one rank that each has, or `dense`."
    )
    tied: Literal["layer", "all"] | None = Field(
        None,
        description="One density for those of a `layer`, or for `all`, each rounded down to its own ranks.",
    )

    @model_validator(mode="after")
    def _demands_what_can_be(self) -> Self:
        if self.layers is not None and self.layers[0] > self.layers[1]:
            raise ValueError(f"layers must be the first and the last, got {list(self.layers)}")
        if self.min_density > self.max_density:
            raise ValueError(
                f"min_density must be at most max_density, {self.max_density}; got {self.min_density}"
            )
        if self.max_rank is not None and self.min_rank > self.max_rank:
            raise ValueError(f"min_rank must be at most max_rank, {self.max_rank}; got {self.min_rank}")
        bounded = (self.min_density, self.max_density, self.min_rank, self.max_rank) != (0, 1, 0, None)
        if self.frozen is not None and bounded:
            raise ValueError("frozen leaves nothing to bound; remove it, or the bounds")
        if self.frozen is None and not bounded and self.tied is None:
            raise ValueError("demands nothing: give a bound, frozen or tied")
        return self


class SeedSpec(Strict):
    """Genomes to start from besides the search's own: exactly one of `path`, `ranks`, `densities` and `random`."""

    path: str | None = Field(
        None,
        description="JSON file with `ranks`, matrix name → rank (-1: dense): an exported model's "
        "`ranksieve.json`, or a job's result.",
    )
    ranks: tuple[Annotated[int, Field(ge=-1)], ...] | None = Field(
        None,
        strict=False,
        min_length=1,
        max_length=100_000,
        description="The rank of every matrix to prune, in their order (-1: dense), as the API tells of candidates.",
    )
    densities: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = Field(
        None,
        min_length=1,
        max_length=1000,
        description="Shell pattern of matrix names → share of the parameters to keep; the first that matches counts.",
    )
    random: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="So many genomes, every matrix at one of LLM-Sieve's ten densities.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("path", "ranks", "densities", "random") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of path, ranks, densities and random; got {' and '.join(given) or 'none'}"
            )
        return self


class ParentSpec(Strict):
    """A job to start from, and how far it had come."""

    job: str = Field(max_length=100)
    generation: Annotated[int, Field(ge=0, le=100_000)] | None = Field(
        None, description="By default the last."
    )


class SearchSpec(Strict):
    """The genetic search over rank vectors."""

    population: int = Field(8, ge=2, le=10_000)
    offspring: int = Field(12, ge=1, le=10_000, description="Children proposed in a generation.")
    survivors: int = Field(
        3, ge=1, le=10_000, description="Children promoted from the screen to all search examples."
    )
    screen: int = Field(64, ge=1, le=1_000_000, description="Search examples that screen every child.")
    generations: Generations = 20
    overlap: int = Field(
        2,
        ge=1,
        le=1000,
        description="Generations in flight at once; 1 waits for the last outcome of one before breeding the next.",
    )
    max_evaluations: Evaluations = Field(400, description="Scorings, of either stage.")
    patience: int = Field(
        6, ge=1, le=100_000, description="Generations without progress before the search ends."
    )
    kl_weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of the KL to the dense model in the fitness; the rest is the rise of the right "
        "answers' negative log-likelihood.",
    )
    seed: int = Field(0, ge=0, le=2**32 - 1)
    constraints: tuple[ConstraintSpec, ...] = Field(
        (), strict=False, max_length=1000, description="What no candidate may break."
    )
    seeds: tuple[SeedSpec, ...] = Field(
        (), strict=False, max_length=MOST_SEEDS, description="Genomes to start from, too."
    )

    @model_validator(mode="after")
    def _survivors_are_offspring(self) -> Self:
        if self.survivors > self.offspring:
            raise ValueError(f"survivors must be at most offspring, {self.offspring}; got {self.survivors}")
        return self


class MaxDrop(Strict):
    """The smallest model whose metric stays within `points` of dense, with `confidence`.

    Points are percentage points of accuracy or token F1; for `lm`, percent of perplexity.
    """

    kind: Literal["max_drop"] = "max_drop"
    points: float = Field(2.0, ge=0, le=100)
    confidence: float = Field(0.8, ge=0.5, lt=1, description="One-sided, on the confirm split.")


class TargetParams(Strict):
    """The best metric with at most `share` of the prunable parameters."""

    kind: Literal["target_params"] = "target_params"
    share: float = Field(gt=0, le=1)


class TargetBytes(Strict):
    """The best metric with weight files of at most `size`, or `share` of the dense model's; exactly one of them."""

    kind: Literal["target_bytes"] = "target_bytes"
    size: ByteSize | None = Field(None, ge=1, description="`120 MB`, `1.5 GB`, or a number of bytes.")
    share: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.size is None) == (self.share is None):
            raise ValueError("give exactly one of size and share")
        return self


class Pareto(Strict):
    """The best models of many sizes at once: the front of size against loss.

    The smallest confirmed finalist that loses no more than `points` is exported, or else the largest.
    """

    kind: Literal["pareto"] = "pareto"
    smallest: float = Field(0.2, gt=0, lt=1, description="Share of the prunable parameters.")
    largest: float = Field(0.8, gt=0, le=1)
    sizes: int = Field(13, ge=2, le=1000, description="In even steps from the smallest to the largest.")
    finalists: int = Field(5, ge=1, le=100, description="Points of the front to confirm.")
    points: float = Field(2.0, ge=0, le=100)
    confidence: float = Field(0.8, ge=0.5, lt=1, description="One-sided, on the confirm split.")

    @model_validator(mode="after")
    def _smallest_is_smaller(self) -> Self:
        if self.smallest >= self.largest:
            raise ValueError(f"smallest must be below largest, {self.largest}; got {self.smallest}")
        return self


CPU_BATCH_TOKENS = 768
GPU_BATCH_TOKENS = 4096


class ResourceSpec(Strict):
    """What the job may use of the cluster."""

    actors: int = Field(2, ge=1, le=4096)
    threads_per_actor: int = Field(1, ge=1, le=1024)
    gpus_per_actor: float = Field(0, ge=0, le=64)
    batch_tokens: int | None = Field(
        None,
        ge=1,
        le=10_000_000,
        description="Padded tokens per forward pass; by default 768 on a CPU, where small batches "
        "stay in the caches, and 4,096 on a GPU.",
    )
    gram_memory_gib: float = Field(
        8,
        gt=0,
        le=65_536,
        description="Memory for the Grams of calibration, of a GPU or of all actors that work on the CPU; with less "
        "than all need, it takes several passes.",
    )
    evaluation_timeout_s: float = Field(1800, gt=0, le=86_400)

    @property
    def tokens_per_batch(self) -> int:
        """`batch_tokens`, or what suits the device."""
        return self.batch_tokens or (GPU_BATCH_TOKENS if self.device == "cuda" else CPU_BATCH_TOKENS)

    @property
    def device(self) -> str:
        """Where the model runs."""
        return "cuda" if self.gpus_per_actor > 0 else "cpu"

    @property
    def threads(self) -> int:
        """Of all actors: a phase that runs alone gets them all."""
        return self.actors * self.threads_per_actor

    @property
    def actors_per_device(self) -> int:
        """Actors that share the memory of a GPU, or of the CPU."""
        share = min(1.0, self.gpus_per_actor)  # an actor works on one device, whatever it was given
        return int(1 / share) if share else self.actors

    @property
    def gram_bytes(self) -> int:
        """One actor's share of `gram_memory_gib`."""
        return int(self.gram_memory_gib * 2**30) // self.actors_per_device


class JobSpec(Strict):
    """One pruning job."""

    name: Name = ""
    labels: dict[str, str] = Field(default_factory=dict, max_length=100)
    priority: Priority = Field(0, description="Of the jobs in the queue the highest goes first.")
    model: ModelSpec
    task: TaskSpec
    projection: ProjectionSpec = Field(default_factory=ProjectionSpec)
    search: SearchSpec = Field(default_factory=SearchSpec)
    objective: Annotated[MaxDrop | TargetParams | TargetBytes | Pareto, Field(discriminator="kind")] = Field(
        default_factory=MaxDrop
    )
    resources: ResourceSpec = Field(default_factory=ResourceSpec)
    parent: ParentSpec | None = Field(
        None,
        description="What this job of the same model found by then is added to `search.seeds`, at submission.",
    )

    @model_validator(mode="after")
    def _screen_fits_search_split(self) -> Self:
        if self.search.screen > self.task.data.sizes.search:
            raise ValueError(
                f"search.screen must be at most task.data.sizes.search, {self.task.data.sizes.search}; "
                f"got {self.search.screen}"
            )
        return self

    @model_validator(mode="after")
    def _every_size_is_scored(self) -> Self:
        if isinstance(self.objective, Pareto) and self.objective.sizes > self.search.max_evaluations:
            raise ValueError(
                f"search.max_evaluations must be at least objective.sizes, {self.objective.sizes}; "
                f"got {self.search.max_evaluations}"
            )
        return self

    def canonical(self) -> dict[str, Any]:
        """The spec as plain JSON values with every default written out."""
        return self.model_dump(mode="json")
