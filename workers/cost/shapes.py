"""Numbers of a model and a job: shapes from the configuration, loads from tokens.

`workers.cost.estimate` and the memory formulas compute with them. Nothing is loaded or run.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.cost.workload import Workload
from ranksieve.workers.factors.passes import shard_count
from ranksieve.workers.forward.batches import make_batches
from ranksieve.workers.forward.generation import by_prompt, longest_answer, read_once
from ranksieve.workers.model.experts import expert_of
from ranksieve.workers.model.matrices import find_matrices, iter_linears, linear_params
from ranksieve.workers.model.sources import empty_model
from ranksieve.workers.types.plan import EncodedTask, Example

EXPERTS_PER_TOKEN = ("num_experts_per_tok", "top_k_experts", "moe_topk")
"""Names in configurations for the number of experts of a token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSize:
    """Numbers of a model.

    `block_params`: all linear weights inside the blocks, where tied weights count once. `reach`: share of all tokens
    that an expert's matrix sees if all experts get equally many, by name. `idle_params`: weights of the blocks that a
    token does not run through on that assumption. `cached`: numbers of a layer's keys and values of a token.
    """

    matrices: tuple[MatrixShape, ...]
    total_params: int
    block_params: int
    idle_params: int
    reach: Mapping[str, float]
    layers: int
    hidden: int
    vocabulary: int
    attention: int
    heads: int
    cached: int

    @property
    def activations(self) -> float:
        """Inputs and outputs of all matrices, in numbers per token."""
        return sum(self.seen(matrix) * (matrix.in_features + matrix.out_features) for matrix in self.matrices)

    @property
    def running_params(self) -> int:
        """Weights of the blocks that a token runs through."""
        return self.block_params - self.idle_params

    def first_blocks(self, depth: float) -> "ModelSize":
        """Return the model with a share of its blocks, rounded up."""
        kept = math.ceil(depth * self.layers)
        block_params = self.block_params * kept // self.layers
        return replace(
            self,
            matrices=tuple(matrix for matrix in self.matrices if matrix.layer < kept),
            total_params=self.total_params - self.block_params + block_params,
            block_params=block_params,
            idle_params=self.idle_params * kept // self.layers,
            layers=kept,
        )

    def seen(self, matrix: MatrixShape) -> float:
        """Return the share of all tokens that a matrix sees."""
        return self.reach.get(matrix.name, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Load:
    """Load of a set of examples on a model.

    Amounts scale with the examples, those of the largest batch do not. `tokens` T with padding. `squares`: the sum of
    rows · L² over the batches. `reads`: positions that go through the output head. `decoded`: tokens generated one
    after another, in `steps` forward passes of their own. `largest_cached`: largest number of tokens whose keys and
    values are kept at once.
    """

    tokens: float = 0
    squares: float = 0
    reads: float = 0
    batches: float = 0
    decoded: float = 0
    steps: float = 0
    largest_tokens: int = 0
    largest_reads: int = 0
    largest_cached: int = 0

    def times(self, factor: float) -> "Load":
        """Return the load of the same examples `factor` times."""
        amounts = ("tokens", "squares", "reads", "batches", "decoded", "steps")
        return replace(self, **{name: getattr(self, name) * factor for name in amounts})

    def __add__(self, other: "Load") -> "Load":
        largest = ("largest_tokens", "largest_reads", "largest_cached")
        names = [field.name for field in fields(self)]
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in names}
        return Load(**{name: max(pair) if name in largest else sum(pair) for name, pair in pairs.items()})


@dataclass(frozen=True, kw_only=True, slots=True)
class JobSize:
    """Numbers of a job.

    `loads`, by name: calibration (Grams), way (Grams of the way of a midway calibration), training (one of
    `train_epochs` passes), search, confirm, test, verify, and latency (one pass, where latencies are measured).

    `search_passes`: passes over the search split that all scorings add up to. `finalists`: largest number of
    finalists to confirm. `devices`: devices' worth of work that the actors do at the same time (1 for a processor,
    whose rates are those of all its threads). `actors_per_device`: actors that share the memory of one device.
    `devices_per_actor`: devices of one actor. `gram_bytes`: memory for the Grams of one actor. `midway_share`: as in
    `factors.prepared.PreparationPlan`. `tuned_depth`: share of the blocks that are tuned and stay; None: the model is
    not tuned. `rounded`: whether candidates have weights of few bits.
    """

    dtype: str
    device: str
    gguf: bool
    gram_bytes: int
    midway_share: float | None
    loads: Mapping[str, Load]
    train_epochs: int
    tuned_depth: float | None = None
    rounded: bool = False
    search_passes: float
    finalists: int
    actors: int
    actors_per_device: int
    devices_per_actor: int
    devices: float


def size_of(
    config: PreTrainedConfig, include: Sequence[str] = ("*",), exclude: Sequence[str] = ()
) -> ModelSize:
    """Return a model's numbers from its configuration alone.

    Args:
        config: Configuration of a causal language model.
        include: Patterns of the matrices to prune, as for `find_matrices`.
        exclude: Patterns of the matrices to leave dense.

    Raises:
        InputError: The model is not supported.
    """
    model, text = empty_model(config), config.get_text_config()
    heads = getattr(text, "num_attention_heads", 0)  # some models have no attention
    layers = list(text.per_layer_config)  # heads of some models differ by layer
    head_size = max(getattr(one, "head_dim", None) or text.hidden_size // max(heads, 1) for one in layers)
    key_heads = max(getattr(one, "num_key_value_heads", None) or heads for one in layers)
    weights = {name: module.weight.numel() for name, _, module in iter_linears(model)}
    reach = {name: _reach(model, name) for name in weights if expert_of(model, name) is not None}
    return ModelSize(
        matrices=find_matrices(model, include, exclude),
        total_params=sum(parameter.numel() for parameter in model.parameters()),
        block_params=linear_params(model),
        idle_params=round(sum((1 - share) * weights[name] for name, share in reach.items())),
        reach=reach,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        vocabulary=text.vocab_size,
        attention=heads * head_size,
        heads=heads,
        cached=2 * head_size * key_heads,
    )


def _reach(model: PreTrainedModel, name: str) -> float:
    """Return the share of all tokens that an expert's matrix sees.

    It is 1 if the configuration does not state how many experts a token is sent to.
    """
    experts: Any = model.get_submodule(name.rsplit(".", 2)[0])
    config = model.config.get_text_config()
    chosen = next((count for name in EXPERTS_PER_TOKEN if (count := getattr(config, name, None))), None)
    if isinstance(chosen, list):  # by layer
        chosen = max(chosen)
    return min(1.0, chosen / experts.num_experts) if chosen else 1.0


def load_of(task: EncodedTask, split: str, batch_tokens: int, stop: int | None = None) -> Load:
    """Return the load of a split's first examples, from their real batches.

    Every answer of `generate` is assumed to have the largest length. No answers are generated on the calibration
    split.
    """
    examples = task.splits[split][:stop]
    if split != "calibration" and read_once(task):
        new_tokens = task.max_new_tokens if task.kind == "generate" else 0
        groups = by_prompt(examples, batch_tokens, new_tokens)
        loads = [_shared_load([examples[index] for index in group], new_tokens) for group in groups]
        load = sum(loads, Load())
        return replace(load, decoded=len(examples) * new_tokens, steps=len(groups) * new_tokens)
    load = Load()
    for batch in make_batches(examples, max(example.choices for example in examples), batch_tokens):
        rows, length = batch.ids_BL.shape
        load += _batch_load(rows, length, _reads(examples[index] for index in batch.examples))
    return load


def uniform_load(examples: int, length: int, batch_tokens: int, reads: int = 1) -> Load:
    """Return the load of imagined examples, one row of `length` tokens each.

    `reads` positions of each are read.
    """
    rows = max(1, batch_tokens // length)
    batch = _batch_load(rows, length, rows * reads)
    return batch.times(examples / rows)


def pass_load(workload: Workload) -> Load:
    """Return the load of one timed forward pass.

    Building the cache that decoding starts from does not count.
    """
    rows, length = workload.rows, workload.length
    if workload.kind == "decode":
        cached = 2 * rows * (length + 1)  # the cache that decoding starts from, and a copy that it adds to
        return Load(
            decoded=rows, steps=1, largest_tokens=rows * length, largest_reads=rows, largest_cached=cached
        )
    return _batch_load(rows, length, rows)


def shards_of(job: JobSize, load: Load) -> int:
    """Return the number of shards of a round of the job's calibration."""
    return shard_count(load.tokens, max(1, round(load.batches)), job.device)


def _shared_load(examples: Sequence[Example], new_tokens: int) -> Load:
    """Return the load of prompts that are read once, and of the rows after them.

    Prompts are read without their last tokens. Where answers are generated, too, the prompts' cache is kept beside
    the one that the rows add to.
    """
    prompts = [len(example.prompt_ids) for example in examples]
    length, following = max(prompts), max(map(longest_answer, examples))
    rows = sum(len(example.rows) for example in examples)
    reading = _batch_load(len(examples), length - 1, 0)
    going_on = _batch_load(rows, following, _reads(examples))
    whole = length - 1 + following
    cached = rows * whole + (len(examples) * (length + new_tokens) if new_tokens else 0)
    return reading + replace(
        going_on,
        squares=rows * following * whole,
        largest_tokens=rows * whole,
        largest_cached=cached,
    )


def _reads(examples: Iterable[Example]) -> int:
    return sum(row.reads for example in examples for row in example.rows)


def _batch_load(rows: int, length: int, reads: int) -> Load:
    return Load(
        tokens=rows * length,
        squares=rows * length**2,
        reads=reads,
        batches=1,
        largest_tokens=rows * length,
        largest_reads=reads,
    )
