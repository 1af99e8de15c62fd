"""Peak memory against tensors that really are kept, and files that really are written."""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, LlamaForCausalLM

from ranksieve.workers.cost.footprint import (
    HEAP,
    LOGIT_BYTES,
    PROCESS_BYTES,
    factor_bytes,
    weight_bytes,
)
from ranksieve.workers.cost.latency import LatencyPlan
from ranksieve.workers.cost.latency_measurement import measure_latency
from ranksieve.workers.cost.memory import (
    exporting,
    scoring,
    timing,
    verifying,
)
from ranksieve.workers.cost.preparation_memory import preparing, spilled_bytes
from ranksieve.workers.cost.shapes import JobSize, Load, ModelSize, load_of, pass_load, size_of, uniform_load
from ranksieve.workers.cost.workload import Workload
from ranksieve.workers.factors.calibration import Calibrator
from ranksieve.workers.factors.prepared import Prepared
from ranksieve.workers.model.attention import suit_gradients
from ranksieve.workers.types.plan import EncodedTask, Example


@pytest.fixture(scope="module")
def model(make_llama: Callable[..., LlamaForCausalLM]) -> ModelSize:
    return size_of(make_llama().config)


@pytest.fixture
def job(make_job: Callable[[Mapping[str, Load]], JobSize]) -> JobSize:
    names = ("calibration", "training", "search", "confirm", "test", "verify")
    made = make_job({name: uniform_load(64, 32, 2048) for name in names})
    return replace(made, actors=1, actors_per_device=1)


class Held(TorchDispatchMode):
    """The most bytes of tensors that are made within it and are there at once, but for those given."""

    def __init__(self, given: list[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self._now = 0
        self._given = [tensor.untyped_storage() for tensor in given]
        self._sizes = {id(storage): 0 for storage in self._given}

    def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and id(tensor.untyped_storage()) not in self._sizes:
                storage = tensor.untyped_storage()
                self._sizes[id(storage)] = storage.nbytes()
                self._now += storage.nbytes()
                self.most = max(self.most, self._now)
                weakref.finalize(storage, self._forget, id(storage))
        return made

    def _forget(self, storage: int) -> None:
        self._now -= self._sizes.pop(storage)


def with_calibration(job: JobSize, load: Load) -> JobSize:
    return replace(job, loads={**job.loads, "calibration": load})


def test_files_have_the_bytes_that_were_told(prepared: Prepared, model: ModelSize, job: JobSize) -> None:
    header = 20_000
    weights = sum(file.stat().st_size for file in prepared.model.folder.glob("*.safetensors"))
    factors = sum(file.stat().st_size for file in prepared.factors.glob("*.safetensors"))
    assert 0 <= weights - weight_bytes(model, job) < header
    assert 0 <= factors - factor_bytes(model.matrices, "float32") < header


@pytest.mark.parametrize(("dtype", "length"), [("float32", 32), ("bfloat16", 32), ("bfloat16", 80)])
def test_activations_are_those_that_autograd_keeps(
    dtype: str,
    length: int,
    make_llama: Callable[..., LlamaForCausalLM],
    make_task: Callable[..., EncodedTask],
    choice_example: Callable[..., Example],
    job: JobSize,
) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 8}
    llama: Any = suit_gradients(make_llama(**sizes, max_position_embeddings=80).to(getattr(torch, dtype)))
    weights = {parameter.untyped_storage().data_ptr() for parameter in llama.parameters()}
    examples = tuple(choice_example((5,) * length, ((6,), (7,))) for _ in range(64))
    task = replace(make_task("choice"), splits={"calibration": examples})
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with hooks, Calibrator(llama, ()) as calibrator:
        (progress,) = calibrator.run("choice", examples, 64 * length, seed=0)  # one batch
    assert progress == (1, 1)

    size, load = size_of(llama.config), load_of(task, "calibration", 64 * length)
    job = replace(job, dtype=dtype)
    double = replace(load, largest_tokens=2 * load.largest_tokens, largest_reads=2 * load.largest_reads)
    batch = (
        preparing(size, with_calibration(job, double)).host_bytes
        - preparing(size, with_calibration(job, load)).host_bytes
    )
    assert 0.9 < batch / HEAP / sum(kept.values()) < 1.4


def test_grams_are_those_that_calibration_keeps(
    make_llama: Callable[..., LlamaForCausalLM], make_task: Callable[..., EncodedTask], job: JobSize
) -> None:
    llama, task = make_llama(), make_task("choice")
    size = size_of(llama.config)
    with Calibrator(llama, size.matrices) as calibrator:
        for _ in calibrator.run("choice", task.splits["calibration"], 64, seed=0):
            pass
    grams = [*calibrator.grams.forward.values(), *calibrator.grams.backward.values()]
    real = sum(gram.panels_P.numel() * gram.panels_P.element_size() for gram in grams)
    estimated = preparing(size, job).host_bytes - preparing(size, replace(job, gram_bytes=1)).host_bytes
    # with a byte of memory for Grams a group is one matrix: at most 2 x 8 x 32² bytes
    assert real <= estimated + 2 * 8 * 32**2 <= 1.3 * real


def test_stand_ins_are_those_that_are_timed(prepared: Prepared, make_flop_timer: Any, job: JobSize) -> None:
    plan = LatencyPlan(
        model_folder=prepared.model.folder,
        matrices=prepared.matrices,
        rank_step=1,
        workload=Workload(kind="prefill", rows=2, length=5),
        threads=1,
        device="cpu",
    )
    with Held([]) as held:
        list(measure_latency(plan, make_flop_timer))
    job = replace(job, loads={**job.loads, "latency": pass_load(plan.workload)})
    estimated = timing(size_of(AutoConfig.from_pretrained(plan.model_folder)), job).host_bytes - PROCESS_BYTES
    assert 0.5 < held.most / estimated < 1


def test_every_worker_holds_a_model_grams_and_a_batch(model: ModelSize, job: JobSize) -> None:
    one, three = (preparing(model, replace(job, actors=actors)).host_bytes for actors in (1, 3))
    assert three == 3 * one
    gpu = replace(job, device="cuda")
    alone, shared = (
        preparing(model, replace(gpu, actors=4, actors_per_device=n)).accelerator_bytes for n in (1, 2)
    )
    assert shared == 2 * alone


def test_sums_on_disk_are_bounded_by_the_workers(model: ModelSize, job: JobSize) -> None:
    one_sum = 16 * sum(min(m.out_features, m.in_features) ** 2 for m in model.matrices)
    assert spilled_bytes(model, job) == one_sum  # one shard
    long = with_calibration(job, uniform_load(6400, 32, 2048))  # 50 shards
    for actors in (1, 2):
        assert spilled_bytes(model, replace(long, actors=actors)) == (2 + 2 * actors) * one_sum
    assert spilled_bytes(model, replace(long, actors=100)) == (2 + 49) * one_sum


def test_actors_hold_copies_of_the_model_and_share_the_factors(model: ModelSize, job: JobSize) -> None:
    load = job.loads["search"]
    one, two = (scoring(model, replace(job, actors=actors), load).host_bytes for actors in (1, 2))
    factors = factor_bytes(model.matrices, "float32")
    assert two - factors == 2 * (one - factors)
    assert one > factors + weight_bytes(model, job)


def test_actors_of_rounded_candidates_hold_two_models_and_their_own_factors(
    model: ModelSize, job: JobSize
) -> None:
    load, few = job.loads["search"], replace(job, rounded=True)
    more = scoring(model, few, load).host_bytes - scoring(model, job, load).host_bytes
    assert more == job.actors * (weight_bytes(model, job) + factor_bytes(model.matrices, "float32"))
    gpu = replace(few, device="cuda")
    more = scoring(model, gpu, load).accelerator_bytes
    more -= scoring(model, replace(gpu, rounded=False), load).accelerator_bytes
    assert more >= gpu.actors_per_device * weight_bytes(model, job)


def test_on_a_gpu_every_actor_has_its_own_factors(model: ModelSize, job: JobSize) -> None:
    gpu, load = replace(job, device="cuda"), job.loads["search"]
    one, two = (scoring(model, replace(gpu, actors_per_device=n), load).accelerator_bytes for n in (1, 2))
    assert two == 2 * one
    assert one > factor_bytes(model.matrices, "float32") + weight_bytes(model, job)
    for phase in (preparing(model, gpu), verifying(model, gpu)):
        assert phase.accelerator_bytes > weight_bytes(model, job)
    assert exporting(model, gpu).accelerator_bytes == 0
    assert preparing(model, job).accelerator_bytes == 0


def test_reading_every_position_costs_a_vocabulary_each(model: ModelSize, job: JobSize) -> None:
    few, many = (uniform_load(64, 32, 2048, reads=reads) for reads in (1, 32))
    more = preparing(model, with_calibration(job, many)).host_bytes
    assert more - preparing(model, with_calibration(job, few)).host_bytes == HEAP * 64 * 31 * 48 * LOGIT_BYTES


def test_a_gguf_file_passes_through_float32(model: ModelSize, job: JobSize) -> None:
    large = replace(model, total_params=10**9)
    small_job = replace(job, dtype="bfloat16", actors=1)
    plain, gguf = (preparing(large, replace(small_job, gguf=gguf)).host_bytes for gguf in (False, True))
    assert gguf - plain == pytest.approx(4e9, rel=0.01)


def test_an_export_is_made_and_checked_beside_the_dense_model(model, job) -> None:
    larger = replace(model, total_params=model.total_params + 10**6)
    for needs in (exporting, verifying):
        assert needs(larger, job).host_bytes - needs(model, job).host_bytes == 2 * 4 * 10**6
    gpu = replace(job, device="cuda")
    assert verifying(larger, gpu).accelerator_bytes - verifying(model, gpu).accelerator_bytes == 2 * 4 * 10**6


def test_every_actor_of_a_gpu_reads_its_model_through_the_host(model, job) -> None:
    gpu, load = replace(job, device="cuda"), job.loads["search"]
    one, three = (scoring(model, replace(gpu, actors=actors), load).host_bytes for actors in (1, 3))
    factors = factor_bytes(model.matrices, "float32")
    assert three - factors == 3 * (one - factors)


def test_of_a_model_that_cannot_be_spread_evenly_the_fullest_gpu_counts(model, job) -> None:
    """Three blocks on two GPUs are two on one of them."""
    gpu, load = replace(job, device="cuda"), replace(job.loads["search"], largest_cached=0)
    three = replace(model, layers=3)
    spread, whole = (
        scoring(replace(three, total_params=size), replace(gpu, devices_per_actor=2), load).accelerator_bytes
        for size in (3 * 10**9, 0)
    )
    assert spread - whole == 4 * 2 * 10**9
