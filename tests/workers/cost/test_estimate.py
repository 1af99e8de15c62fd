"""FLOPs against torch's own counter, phases against hand-derived numbers."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from ranksieve.workers.cost.estimate import PhaseEstimate, estimate
from ranksieve.workers.cost.footprint import factor_bytes
from ranksieve.workers.cost.operations import FILE_BYTES_PER_SECOND
from ranksieve.workers.cost.shapes import (
    JobSize,
    Load,
    ModelSize,
    gram_passes,
    load_of,
    pass_load,
    shards_of,
    size_of,
)
from ranksieve.workers.cost.speed import Rates
from ranksieve.workers.cost.workload import Workload, WorkloadKind
from ranksieve.workers.factors.calibration import Calibrator
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.scoring.scorer import Scorer
from ranksieve.workers.types.plan import EncodedTask
from ranksieve.workers.types.scores import ScoreRequest

BATCH_TOKENS = 64
RATES = Rates(
    name="a machine",
    measured=True,
    flops={"float32": 1e6, "float64": 1e6},
    decomposition_flops=1e6,
    memory_bytes=1e6,
    capacity_bytes=1e9,
    utilisation=(0.25, 0.5),
)
PHASES = ("prepare", "dense", "reweigh", "descend", "search", "refit", "confirm", "test", "export", "verify")


@pytest.fixture(scope="module")
def model(make_llama: Callable[..., LlamaForCausalLM]) -> ModelSize:
    return size_of(make_llama().config)


@pytest.fixture(scope="module")
def task(make_task: Callable[..., EncodedTask]) -> EncodedTask:
    return make_task("choice")


@pytest.fixture
def job(task: EncodedTask, make_job: Callable[[Mapping[str, Load]], JobSize]) -> JobSize:
    loads = {name: load_of(task, name, BATCH_TOKENS) for name in task.splits}
    extra = {
        "way": loads["calibration"],
        "propagation": loads["calibration"],
        "propagation_looks": Load(),
        "refinement": loads["calibration"],
        "reweigh": loads["calibration"].times(3),
        "descend": loads["calibration"].times(2),
        "reweigh_looks": loads["search"],
        "descend_looks": loads["search"].times(2),
        "refit": loads["calibration"],
        "confirm": loads["search"],
        "verify": loads["test"],
    }
    return make_job({**loads, **extra})


def phases_of(model: ModelSize, job: JobSize, rates: Rates = RATES) -> dict[str, PhaseEstimate]:
    phases = estimate(model, job, rates)
    assert tuple(phase.phase for phase in phases) == PHASES
    return {phase.phase: phase for phase in phases}


@pytest.mark.parametrize("kind", ["choice", "lm"])  # prompts read once, and row by row
@pytest.mark.parametrize("architecture", ["llama", "mixture"])
def test_forward_flops_are_what_torch_counts(
    make_llama: Callable[..., LlamaForCausalLM],
    make_mixture: Callable[..., Any],
    make_task: Callable[..., EncodedTask],
    tokenizer: PreTrainedTokenizerFast,
    job: JobSize,
    kind: str,
    architecture: str,
) -> None:
    make = {"llama": make_llama, "mixture": make_mixture}[architecture]
    llama: Any = make(attn_implementation="eager")  # torch does not count the fused one on a processor
    model = size_of(llama.config)
    scored = make_task(kind)
    load, examples = load_of(scored, "test", BATCH_TOKENS), len(scored.splits["test"])
    scorer = Scorer(SwitchableModel(llama, (), {}), tokenizer, scored, BATCH_TOKENS)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        scorer.score(ScoreRequest(ranks=(), split="test", start=0, stop=examples))
    test = phases_of(model, replace(job, loads={**job.loads, "test": load}))["test"]
    assert test.flops == 2 * counter.get_total_flops()


def test_another_pass_costs_the_forward_and_backward_flops_that_torch_counts(
    make_llama: Callable[..., LlamaForCausalLM], model: ModelSize, job: JobSize, task: EncodedTask
) -> None:
    llama: Any = make_llama(attn_implementation="eager")
    with FlopCounterMode(display=False) as counter, Calibrator(llama, (), "task") as calibrator:
        for _ in calibrator.run("choice", task.splits["calibration"], BATCH_TOKENS, seed=0):
            pass
    total_grams = 16 * sum(min(m.out_features, m.in_features) ** 2 for m in model.matrices)
    twice = replace(job, gram_bytes=total_grams // 2)
    assert len(gram_passes(model, "task", twice.gram_bytes)) == 2
    one, two = phases_of(model, job)["prepare"], phases_of(model, twice)["prepare"]
    assert two.tokens == 2 * one.tokens
    assert two.flops - one.flops == counter.get_total_flops()


def test_grams_and_factoring_by_hand(model: ModelSize, job: JobSize) -> None:
    none = Load(real_tokens=10)
    alone = replace(model, matrices=(find_wide(model),), block_params=0)
    prepared = phases_of(alone, replace(job, loads={**job.loads, "calibration": none}))["prepare"]
    grams = 2 * 10 * 2 * 32**2  # narrower than a panel
    rank = 19  # of 32×48, below break-even
    factoring = 14 * 32**3 + 3 * 32**2 * rank + 2 * 32 * rank * 48
    assert prepared.flops == grams + factoring


def test_midway_all_is_done_twice_but_from_fewer_examples_at_first(model: ModelSize, job: JobSize) -> None:
    once = phases_of(model, job)["prepare"]
    twice = phases_of(model, replace(job, midway_share=0.25))["prepare"]
    more = 2 * 2 * 0.25 * model.block_params * job.loads["calibration"].tokens
    factors = 4 * sum(m.largest_rank * (m.out_features + m.in_features) for m in model.matrices)
    assert twice.tokens == 2 * once.tokens
    assert twice.flops == 2 * once.flops + more
    assert twice.disk_bytes == once.disk_bytes + factors
    assert twice.host_bytes == once.host_bytes + 2 * model.block_params  # two workers, a quarter of float32
    few = {**job.loads, "way": job.loads["calibration"].times(0.25)}
    quicker = phases_of(model, replace(job, midway_share=0.25, loads=few))["prepare"]
    assert quicker.tokens == round(1.25 * once.tokens)
    assert once.flops + more < quicker.flops < twice.flops


def test_phases_add_up_from_the_loads(model: ModelSize, job: JobSize) -> None:
    loads, phases = job.loads, phases_of(model, job)
    assert phases["dense"].tokens == loads["search"].tokens + loads["confirm"].tokens
    assert phases["search"].tokens == round(loads["search"].tokens * (5 + 10 * 0.25))
    assert phases["reweigh"].tokens == 2 * 3 * loads["calibration"].tokens + loads["search"].tokens
    assert phases["descend"].tokens == 2 * 2 * loads["calibration"].tokens + 2 * loads["search"].tokens
    assert phases["confirm"].tokens == 4 * loads["confirm"].tokens
    assert phases["test"].tokens == 2 * loads["test"].tokens
    assert phases["export"].flops == phases["export"].tokens == 0
    weights = 4 * model.total_params
    factors = 4 * sum(m.largest_rank * (m.out_features + m.in_features) for m in model.matrices)
    grams = 16 * sum(min(m.out_features, m.in_features) ** 2 for m in model.matrices)
    assert [phases[name].disk_bytes for name in PHASES] == [
        weights + factors + grams,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        weights,
        0,
    ]


def test_seconds_are_flops_and_bytes_over_the_rates(model: ModelSize, job: JobSize) -> None:
    test = phases_of(model, job)["test"]
    activations = sum(matrix.in_features + matrix.out_features for matrix in model.matrices)
    load = job.loads["test"]
    moved = 2 * 4 * (load.batches * model.total_params + load.tokens * activations)
    best = (test.flops + moved) / 1e6 / 0.5
    assert (test.seconds_low, test.seconds_high) == (round(best, 1), round(2 * best, 1))
    faster = replace(RATES, flops={"float32": 2e6, "float64": 2e6}, decomposition_flops=2e6, memory_bytes=2e6)
    assert phases_of(model, job, faster)["test"].seconds_low == pytest.approx(best / 2, abs=0.1)


def test_actors_on_devices_of_their_own_share_scoring_shards_and_factoring(
    model: ModelSize, job: JobSize
) -> None:
    def shared(job: JobSize, phase: str, devices: int) -> float:
        """Seconds that so many devices save."""
        one, more = (phases_of(model, replace(job, devices=n))[phase].seconds_high for n in (1, devices))
        return one - more

    confirm = phases_of(model, job)["confirm"].seconds_high
    assert shared(job, "confirm", 4) == pytest.approx(confirm * 3 / 4, abs=0.2)
    assert shared(job, "export", 4) == 0
    factoring = sum(
        14 * min(m.out_features, m.in_features) ** 3
        + 3 * min(m.out_features, m.in_features) ** 2 * m.largest_rank
        + 2 * m.dense_params * m.largest_rank
        for m in model.matrices
    )
    seconds = factoring / 1e6 / 0.25
    assert shared(job, "prepare", 4) == pytest.approx(seconds * 3 / 4, abs=0.2)  # one shard alone
    many = job.loads["calibration"].times(1000)
    long = replace(job, loads={**job.loads, "calibration": many})
    shards = shards_of(long, many)
    assert shards == int(many.tokens) // 4096 > 10
    assert (
        0 < shared(long, "prepare", 1000) - shared(long, "prepare", shards) < seconds
    )  # no more workers than shards


def test_refitting_costs_passes_and_memory_where_there_is_any(model: ModelSize, job: JobSize) -> None:
    none = replace(job, loads={**job.loads, "refit": Load()})
    refit, nothing = phases_of(model, job)["refit"], phases_of(model, none)["refit"]
    each = 5 * job.loads["refit"].tokens + 2 * job.loads["search"].tokens
    assert refit.tokens == round(each * job.finalists)
    assert (nothing.tokens, nothing.flops) == (0, 0)
    held = job.loads["refit"].real_tokens * 2 * model.hidden * 4
    assert refit.host_bytes > phases_of(model, job)["search"].host_bytes + held


@pytest.mark.parametrize(("actors", "refit_share"), [(2, 2 / 4), (1, 1 / 4), (9, 1)])
def test_where_confirming_may_end_early_the_low_ends_are_of_the_fewest_finalists(
    model: ModelSize, job: JobSize, actors: int, refit_share: float
) -> None:
    all_four, one = (
        phases_of(model, replace(job, actors=actors, fewest_finalists=fewest)) for fewest in (4, 1)
    )
    for phase, share in (("refit", refit_share), ("confirm", 1 / 4)):
        assert one[phase].seconds_low == pytest.approx(share * all_four[phase].seconds_low, abs=0.1)
        assert replace(one[phase], seconds_low=0.0) == replace(all_four[phase], seconds_low=0.0)


def test_decoding_reads_all_weights_for_every_token(model: ModelSize, job: JobSize) -> None:
    written = replace(job.loads["test"], decoded=100, steps=50)
    before, after = (
        phases_of(model, job),
        phases_of(model, replace(job, loads={**job.loads, "test": written})),
    )
    assert after["test"].tokens - before["test"].tokens == 2 * 100
    per_token = 2 * (model.block_params + model.vocabulary * model.hidden)
    assert after["test"].flops - before["test"].flops == 2 * 100 * per_token
    more = (2 * 100 * per_token + 2 * 50 * 4 * model.total_params) / 1e6 / 0.5
    assert after["test"].seconds_low - before["test"].seconds_low == pytest.approx(more, abs=0.2)


def test_methods_differ_in_what_they_gather(model: ModelSize, job: JobSize) -> None:
    flops = {
        method: phases_of(model, replace(job, method=method))["prepare"].flops  # type: ignore[arg-type]
        for method in ("weight", "output", "task")
    }
    assert flops["weight"] < flops["output"] < flops["task"]
    assert phases_of(model, replace(job, method="weight"))["prepare"].tokens == 0


def test_training_costs_passes_factors_and_memory_of_its_own(model: ModelSize, job: JobSize) -> None:
    calibration = job.loads["refinement"]
    phases = [phases_of(model, replace(job, train_epochs=epochs))["prepare"] for epochs in (0, 1, 3)]
    none, one, three = phases
    assert [round(phase.tokens - none.tokens) for phase in (one, three)] == [
        calibration.tokens,
        3 * calibration.tokens,
    ]
    assert three.flops - none.flops == pytest.approx(3 * (one.flops - none.flops), rel=1e-6)
    # three forward passes' worth of products in the blocks at least: dense, candidate, gradients of activations
    assert one.flops - none.flops > 3 * 2 * model.block_params * calibration.tokens
    factors = 4 * sum(m.largest_rank * (m.out_features + m.in_features) for m in model.matrices)
    assert one.disk_bytes - none.disk_bytes == three.disk_bytes - none.disk_bytes == factors
    assert one.host_bytes - none.host_bytes <= 5 * factors
    wide = replace(job, gram_bytes=0, actors=1)
    trained = phases_of(model, replace(wide, train_epochs=1))["prepare"]
    assert trained.host_bytes > phases_of(model, wide)["prepare"].host_bytes


def test_propagation_costs_flows_moments_and_regressions(model: ModelSize, job: JobSize) -> None:
    load = job.loads["propagation"]
    none, one, three = (phases_of(model, replace(job, propagated=count))["prepare"] for count in (0, 1, 3))
    assert [phase.tokens - none.tokens for phase in (one, three)] == [6 * load.tokens, 12 * load.tokens]
    factors = 4 * sum(m.largest_rank * (m.out_features + m.in_features) for m in model.matrices)
    assert one.disk_bytes - none.disk_bytes == three.disk_bytes - none.disk_bytes == factors
    forward = phases_of(model, replace(job, loads={**job.loads, "test": load}))["test"].flops / 2
    moments = (
        2 * load.real_tokens * sum(3 * m.in_features**2 for m in model.matrices)
    )  # narrower than a panel
    assert three.flops - one.flops == pytest.approx(2 * (3 * forward + moments), abs=1)
    regressions = sum(
        d**3 / 3 + 6 * r * d**2 + 4 * r**2 * d + 2 * r**2 * m.out_features + 9 * r**3
        for m in model.matrices
        for r, d in [(m.largest_rank, m.in_features)]
    )
    assert one.flops - none.flops == pytest.approx(6 * forward + moments + regressions, abs=1)
    assert (
        one.seconds_high - none.seconds_high > (one.flops - none.flops) / 1e6 / 0.25 * 2
    )  # one of two actors
    looking = {**job.loads, "propagation_looks": load.times(5)}
    looked = phases_of(model, replace(job, propagated=1, loads=looking))["prepare"]
    assert looked.tokens - one.tokens == 5 * load.tokens
    assert looked.flops - one.flops == pytest.approx(5 * forward, abs=1)
    many = {**job.loads, "propagation": load.times(10_000)}
    one, three = (phases_of(model, replace(job, propagated=n, loads=many))["prepare"] for n in (1, 3))
    held = round(load.times(10_000).tokens) * 4 * model.hidden  # states of a flow
    assert three.host_bytes - one.host_bytes == 2 * held


def find_wide(model: ModelSize) -> Any:
    return next(matrix for matrix in model.matrices if matrix.out_features > matrix.in_features)


@pytest.mark.parametrize("kind", ["prefill", "decode"])
def test_measuring_latencies_is_passes_and_products(
    model: ModelSize, job: JobSize, kind: WorkloadKind
) -> None:
    load = pass_load(Workload(kind=kind, rows=3, length=7))
    with_table = estimate(model, replace(job, loads={**job.loads, "latency": load}), RATES)
    assert tuple(phase.phase for phase in with_table) == ("prepare", "latency", *PHASES[1:])
    estimated = with_table[1]
    tokens, passes = (21 if kind == "prefill" else 3), 40
    assert estimated.tokens == passes * tokens
    shapes = {(m.out_features, m.in_features): m.dense_params for m in model.matrices}
    products = 2 * 34 * 10 * tokens * sum(shapes.values())
    through = 2 * (model.block_params * tokens + 3 * model.vocabulary * model.hidden)
    attention = 4 * model.attention * 3 * 49 * model.layers if kind == "prefill" else 0
    assert estimated.flops == products + passes * (through + attention)
    assert estimated.host_bytes > 0


def test_every_actor_reads_the_model_and_its_factors(model: ModelSize, job: JobSize) -> None:
    large = replace(model, total_params=10**9)
    one, three = (phases_of(large, replace(job, actors=n))["dense"].seconds_low for n in (1, 3))
    read = 4 * 10**9 + factor_bytes(model.matrices, "float32")
    assert three - one == pytest.approx(2 * read / max(FILE_BYTES_PER_SECOND), abs=0.2)


def test_one_process_verifies_on_one_device(model: ModelSize, job: JobSize) -> None:
    one, four = (phases_of(model, replace(job, devices=n))["verify"] for n in (1, 4))
    assert one == four
