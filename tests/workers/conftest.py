"""Tiny models, their tokenizer and their tasks, built in memory in well under a second."""

import random
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    dynamic_module_utils,
)

from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.workers.cluster.actor import ScorerPlan
from ranksieve.workers.cluster.packing import amounts
from ranksieve.workers.cluster.session import Cluster
from ranksieve.workers.cluster.shares import Share, Sharing
from ranksieve.workers.cost.shapes import JobSize, Load
from ranksieve.workers.export.writer import ExportPlan
from ranksieve.workers.factors.decomposition import factor
from ranksieve.workers.factors.preparation import prepare
from ranksieve.workers.factors.prepared import PreparationPlan, Prepared
from ranksieve.workers.model.experts import stacked_experts, take_apart
from ranksieve.workers.model.matrices import find_matrices, weight_OD
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.types.plan import EncodedTask, Example, ModelSource, Row, Span

SPECIALS = ["<unk>", "<s>", "</s>"]
VOCABULARY = [*SPECIALS, *(f"w{i}" for i in range(45))]
SIZES = {"calibration": 12, "search": 16, "test": 10}
ANSWERS = ((5,), (6, 7), (6, 8, 9))

Ids = tuple[int, ...]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """On so small a model threads that wait for each other cost more than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per word: `w0` is token 3."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens(SPECIALS)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")


@pytest.fixture(scope="session")
def make_llama() -> Callable[..., LlamaForCausalLM]:
    """Weights are wide enough for beliefs that differ between tokens."""

    def make(seed: int = 0, **options: Any) -> LlamaForCausalLM:
        sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 48}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
        torch.manual_seed(seed)
        config = LlamaConfig(
            **{**sizes, **heads, "initializer_range": 0.3, "pad_token_id": None, **options}  # type: ignore[arg-type]
        )
        return LlamaForCausalLM(config).eval().requires_grad_(False)

    return make


@pytest.fixture(scope="session")
def make_gpt2() -> Callable[[], GPT2LMHeadModel]:
    """A model of `Conv1D` maps with biases, which are not zero."""

    def make() -> GPT2LMHeadModel:
        torch.manual_seed(0)
        config = GPT2Config(
            n_embd=24,
            n_layer=2,
            n_head=2,
            n_positions=64,
            vocab_size=48,
            initializer_range=0.3,
            bos_token_id=1,
            eos_token_id=2,
        )
        model = GPT2LMHeadModel(config).eval().requires_grad_(False)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(torch.randn_like(parameter))
        return model

    return make


@pytest.fixture(scope="session")
def llama_folder(
    make_llama: Callable[..., LlamaForCausalLM],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A saved float32 model; tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("llama")
    make_llama().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(llama_folder: Path, tmp_path: Path) -> Path:
    """A copy of the saved model that a test may break."""
    return Path(shutil.copytree(llama_folder, tmp_path / "model"))


@pytest.fixture(scope="session")
def choice_example() -> Callable[..., Example]:
    """An example of a choice task; answers that share their input share a row."""

    def make(prompt: Ids, answers: tuple[Ids, ...] = ANSWERS, label: int = 0) -> Example:
        rows: dict[Ids, list[Span]] = {}
        for choice, ids in enumerate(answers):
            span = Span(choice=choice, start=len(prompt) - 1, ids=ids)
            rows.setdefault(prompt + ids[:-1], []).append(span)
        return Example(
            rows=tuple(Row(ids=ids, spans=tuple(spans)) for ids, spans in rows.items()),
            choices=len(answers),
            label=label,
            prompt_ids=prompt,
        )

    return make


@pytest.fixture(scope="session")
def text_example() -> Callable[..., Example]:
    """An example with one answer text, as `generate` and `lm` have."""

    def make(prompt: Ids, answer: Ids, references: tuple[str, ...] = ()) -> Example:
        span = Span(choice=0, start=len(prompt) - 1, ids=answer)
        row = Row(ids=prompt + answer[:-1], spans=(span,))
        return Example(rows=(row,), choices=1, label=0, prompt_ids=prompt, references=references)

    return make


@pytest.fixture(scope="session")
def make_task(
    choice_example: Callable[..., Example], text_example: Callable[..., Example]
) -> Callable[..., EncodedTask]:
    """A task of random prompts of several lengths; a choice task has two or three answers an example."""

    def example(kind: str, rng: random.Random) -> Example:
        prompt = tuple(rng.randrange(3, 48) for _ in range(rng.randint(2, 9)))
        if kind == "choice":
            answers = ANSWERS[: rng.randint(2, 3)]
            return choice_example(prompt, answers, rng.randrange(len(answers)))
        answer = tuple(rng.randrange(3, 48) for _ in range(rng.randint(1, 4)))
        return text_example(prompt, answer, references=("w1 w2",) if kind == "generate" else ())

    def make(kind: Any, seed: int = 0) -> EncodedTask:
        rng = random.Random(seed)
        return EncodedTask(
            kind=kind,
            splits={name: tuple(example(kind, rng) for _ in range(size)) for name, size in SIZES.items()},
            max_new_tokens=4,
            digest=f"{kind}-{seed}",
            split_digests={name: f"{kind}-{seed}-{name}" for name in SIZES},
        )

    return make


@pytest.fixture(scope="session")
def make_switchable() -> Callable[..., tuple[SwitchableModel, tuple[MatrixShape, ...]]]:
    """Makes a model switchable with plain SVD factors of full rank, which need no data."""

    def make(model: PreTrainedModel) -> tuple[SwitchableModel, tuple[MatrixShape, ...]]:
        matrices = find_matrices(model)
        pairs = {}
        for matrix in matrices:
            weight: Any = weight_OD(model.get_submodule(matrix.name))  # type: ignore[arg-type]
            factors = factor(weight, min(weight.shape), None, None)
            pairs[matrix.name] = (factors.left_RO.float(), factors.right_RD.float())
        return SwitchableModel(model, matrices, pairs), matrices

    return make


@pytest.fixture(scope="session")
def inputs_of() -> Callable[
    [PreTrainedModel, Sequence[MatrixShape], Sequence[Example]], dict[str, torch.Tensor]
]:
    """Tells what every matrix reads."""

    @torch.inference_mode()
    def read(
        model: PreTrainedModel, matrices: Sequence[MatrixShape], examples: Sequence[Example]
    ) -> dict[str, torch.Tensor]:
        """What every matrix reads when rows run one by one, without padding: T×D."""
        seen: dict[str, list[torch.Tensor]] = {matrix.name: [] for matrix in matrices}
        hooks = [
            model.get_submodule(name).register_forward_pre_hook(
                lambda _, args, rows=rows: rows.append(args[0].flatten(0, -2))
            )
            for name, rows in seen.items()
        ]
        for example in examples:
            for row in example.rows:
                model(input_ids=torch.tensor([row.ids]))
        for hook in hooks:
            hook.remove()
        return {name: torch.cat(rows) for name, rows in seen.items()}

    return read


@pytest.fixture(scope="session")
def make_mixture() -> Callable[..., Qwen3MoeForCausalLM]:
    """A model with a mixture of experts, taken apart, in each of its two blocks; a token is sent to two of them."""

    def make(experts: int = 4, **options: Any) -> Qwen3MoeForCausalLM:
        torch.manual_seed(0)
        config = Qwen3MoeConfig(
            vocab_size=48, hidden_size=32, moe_intermediate_size=20, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, num_experts=experts, num_experts_per_tok=2,
            max_position_embeddings=64, pad_token_id=None, **options,
        )  # fmt: skip
        model = Qwen3MoeForCausalLM(config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data.normal_(std=0.3)
        take_apart(model, stacked_experts(model))
        return model.requires_grad_(False)

    return make


@pytest.fixture(params=["llama", "gpt2"])
def candidate(
    request: pytest.FixtureRequest,
    make_llama: Callable[..., PreTrainedModel],
    make_gpt2: Callable[[], PreTrainedModel],
    make_switchable: Callable[..., Any],
) -> tuple[SwitchableModel, tuple[MatrixShape, ...], list[int]]:
    """A model with a dense matrix, a sublayer that is gone, and low-rank matrices in both blocks."""
    switchable, matrices = make_switchable(make_llama() if request.param == "llama" else make_gpt2())
    ranks = [5 + index % 4 for index in range(len(matrices))]
    gone = [i for i, matrix in enumerate(matrices) if matrix.kind in ("self_attn.o_proj", "attn.c_proj")]
    ranks[0], ranks[gone[1]] = DENSE, 0
    return switchable, matrices, ranks


@pytest.fixture(scope="session")
def preparation_plan(
    llama_folder: Path, make_task: Callable[..., EncodedTask], tmp_path_factory: pytest.TempPathFactory
) -> PreparationPlan:
    """The job that most tests share: a choice task on the tiny Llama."""
    return PreparationPlan(
        model=ModelSource(kind="path", location=str(llama_folder), dtype="float32"),
        task=make_task("choice"),
        seed=0,
        batch_tokens=64,
        threads=1,
        device="cpu",
        gram_bytes=2**30,
        cache_dir=tmp_path_factory.mktemp("cache"),
    )


@pytest.fixture(scope="session")
def prepared(preparation_plan: PreparationPlan) -> Prepared:
    """The shared job, prepared."""
    *_, last = prepare(preparation_plan)
    assert isinstance(last, Prepared)
    return last


@pytest.fixture(scope="session")
def make_scorer_plan() -> Callable[[Prepared], ScorerPlan]:
    """What an actor loads of a prepared job."""

    def make(prepared: Prepared) -> ScorerPlan:
        return ScorerPlan(
            model_folder=prepared.model.folder,
            factors_folder=prepared.factors,
            matrices=prepared.matrices,
            batch_tokens=64,
            threads=1,
            device="cpu",
        )

    return make


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A real Ray, embedded in this process."""
    cluster = Cluster()
    cluster.connect()
    yield cluster
    cluster.close()


@pytest.fixture
def make_share() -> Iterator[Callable[..., Share]]:
    """Make the share of a job that wants this many actors and is alone on a node of 8 processors."""
    with ExitStack() as entered:

        def make(limit: int = 1) -> Share:
            node = ray.nodes()[0]["NodeID"] if ray.is_initialized() else "here"
            return entered.enter_context(
                Sharing().enter(
                    "a",
                    {node: amounts(CPU=8)},
                    amounts(CPU=1),
                    limit=limit,
                    priority=0,
                    cancelled=threading.Event(),
                )
            )

        yield make


@pytest.fixture
def provenance() -> dict[str, Any]:
    """What the model card names, as `service.pipeline.report` makes it."""
    metric = {"confirm": 0.9, "test": 0.8}
    drop = {
        "confirm": {"drop_points": 0.1, "drop_low": -0.2, "drop_high": 0.4},
        "test": {"drop_points": 0.2, "drop_low": -0.1, "drop_high": 0.5},
    }
    params = {"block_params": 15360, "total_params": 18592}
    return {
        "name": "Small films",
        "job_id": "0abc",
        "versions": {"ranksieve": "0.1.0"},
        "job_sha256": "d0",
        "model": {"hub": None, "revision": None, "adapter": False, "licence": {}},
        "task": {"kind": "choice", "prompt": "Review: {{ text }} Mood:"},
        "datasets": [],
        "seed": 2,
        "summary": {
            "metric_name": "accuracy",
            "train_epochs": 0,
            "reference": {"tuned": False, "blocks": None},
            "model": {"digest": "d1", "dtype": "float32"},
            "data": {"task": "d2"},
            "dense": {"metric": metric, **params},
            "best": {
                "metric": metric,
                "interval": {"test": [0.7, 0.9]},
                "kept_block_params": 0.5,
                "drop": drop,
                **params,
            },
        },
    }


@pytest.fixture
def export_plan(prepared: Prepared, provenance: dict[str, Any], tmp_path: Path) -> ExportPlan:
    """Exports the shared job with a dense matrix, one of rank 0 and low-rank ones."""
    ranks = [3 + index % 5 for index in range(len(prepared.matrices))]
    ranks[0], ranks[5] = DENSE, 0
    return ExportPlan(
        model_folder=prepared.model.folder,
        factors_folder=prepared.factors,
        matrices=prepared.matrices,
        ranks=tuple(ranks),
        folder=tmp_path / "exported",
        scratch=tmp_path / "scratch",
        provenance=provenance,
    )


@pytest.fixture
def _own_modules_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Code of exported models goes to the test's folder, not to the user's."""
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "modules")])
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers_modules"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture(scope="session")
def make_job() -> Callable[[Mapping[str, Load]], JobSize]:
    """A job as numbers, two actors on a processor, with the given loads."""

    def make(loads: Mapping[str, Load]) -> JobSize:
        return JobSize(
            dtype="float32",
            device="cpu",
            gguf=False,
            gram_bytes=2**30,
            midway_share=None,
            loads=loads,
            train_epochs=0,
            search_passes=7.5,
            finalists=4,
            actors=2,
            actors_per_device=2,
            devices_per_actor=1,
            devices=1,
        )

    return make
