"""Forward passes against torch's own counter, phases against hand-derived numbers."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedTokenizerFast

from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.cost.estimate import (
    FILE_BYTES_PER_SECOND,
    GGUF_PARAMS_PER_SECOND,
    START_S,
    PhaseEstimate,
    estimate,
    forward_flops,
)
from ranksieve.workers.cost.shapes import JobSize, Load, ModelSize, load_of, pass_load, size_of
from ranksieve.workers.cost.speed import Rates
from ranksieve.workers.cost.workload import Workload, WorkloadKind
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.scoring.scorer import Scorer
from ranksieve.workers.types.plan import EncodedTask
from ranksieve.workers.types.scores import ScoreRequest

BATCH_TOKENS = 64
PHASES = ("prepare", "dense", "search", "confirm", "test", "export", "verify")
MATRIX = MatrixShape(name="m", out_features=20, in_features=10, layer=0, kind="m")
MODEL = ModelSize(
    matrices=(MATRIX,),
    total_params=300,
    block_params=200,
    idle_params=0,
    reach={},
    layers=1,
    hidden=5,
    vocabulary=20,
    attention=5,
    heads=1,
    cached=10,
)
ONE = Load(tokens=10, squares=100, reads=1, batches=1, largest_tokens=10, largest_reads=1)
FORWARD = 2 * 200 * 10 + 2 * 20 * 5 * 1 + 4 * 5 * 100
"""FLOPs of a forward pass over `ONE`."""

RATES = Rates(
    name="a machine",
    measured=True,
    flops={"float32": FORWARD / 5},
    decomposition_flops=14 * 10**3,
    capacity_bytes=1e9,
    utilisation=0.5,
)
"""Rates with which a forward pass over `ONE` takes 10 seconds, and factoring one."""

PASS_S = 10


@pytest.fixture
def job(make_job: Callable[[Mapping[str, Load]], JobSize]) -> JobSize:
    names = ("calibration", "way", "training", "search")
    return make_job(dict.fromkeys((*names, "confirm", "test", "verify"), ONE))


def phases_of(job: JobSize, model: ModelSize = MODEL, rates: Rates = RATES) -> dict[str, PhaseEstimate]:
    return {phase.phase: phase for phase in estimate(model, job, rates)}


def seconds_of(phase: PhaseEstimate) -> float:
    assert phase.seconds_high == pytest.approx(4 * phase.seconds_low, abs=0.3)
    return phase.seconds_high / 2


@pytest.mark.parametrize("kind", ["choice", "lm"])  # prompts read once, and row by row
@pytest.mark.parametrize("architecture", ["llama", "mixture"])
def test_forward_flops_are_what_torch_counts(
    make_llama: Callable[..., Any],
    make_mixture: Callable[..., Any],
    make_task: Callable[..., EncodedTask],
    tokenizer: PreTrainedTokenizerFast,
    kind: str,
    architecture: str,
) -> None:
    make = {"llama": make_llama, "mixture": make_mixture}[architecture]
    model = make(attn_implementation="eager")  # torch does not count the fused one on a processor
    task = make_task(kind)
    examples = len(task.splits["test"])
    scorer = Scorer(SwitchableModel(model, (), {}), tokenizer, task, BATCH_TOKENS)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        scorer.score(ScoreRequest(ranks=(), split="test", start=0, stop=examples))
    assert (
        forward_flops(size_of(model.config), load_of(task, "test", BATCH_TOKENS)) == counter.get_total_flops()
    )


@pytest.mark.parametrize(
    ("phase", "tokens", "passes", "other_s"),
    [
        ("prepare", 10, 3, START_S + 1),  # both ways; factoring
        ("dense", 20, 2, START_S),  # search and confirm
        ("search", 75, 7.5, 0),
        ("confirm", 40, 4, 0),
        ("test", 20, 2, 0),
        ("export", 0, 0, START_S),
        ("verify", 10, 1, START_S),
    ],
)
def test_a_phase_takes_forward_passes(
    job: JobSize, phase: str, tokens: int, passes: float, other_s: float
) -> None:
    phases = phases_of(job)
    assert tuple(phases) == PHASES
    one = phases[phase]
    assert one.tokens == tokens
    assert one.flops == passes * FORWARD + (14 * 10**3 if phase == "prepare" else 0)
    assert seconds_of(one) == pytest.approx(passes * PASS_S + other_s, abs=0.1)


@pytest.mark.parametrize(
    ("changes", "tokens", "seconds"),
    [
        ({"midway_share": 0.3}, 10, 3 * PASS_S + 1),  # the way: both ways, factoring
        ({"train_epochs": 3}, 30, 3 * 5 * PASS_S),
        ({"train_epochs": 1, "tuned_depth": 1.0}, 50, (2 + 1 + 3 + 5) * PASS_S),  # three splits are answered
    ],
)
def test_preparation_takes_what_is_wanted(
    job: JobSize, changes: dict[str, Any], tokens: int, seconds: float
) -> None:
    usual, changed = (phases_of(one)["prepare"] for one in (job, replace(job, **changes)))
    assert changed.tokens - usual.tokens == tokens
    assert seconds_of(changed) - seconds_of(usual) == pytest.approx(seconds, abs=0.1)


def test_each_group_of_grams_takes_a_pass_of_its_own(job: JobSize) -> None:
    two = replace(MODEL, matrices=(MATRIX, replace(MATRIX, name="n")))
    together, apart = (phases_of(replace(job, gram_bytes=size), two)["prepare"] for size in (2**30, 1))
    assert (together.tokens, apart.tokens) == (10, 20)
    assert seconds_of(apart) - seconds_of(together) == pytest.approx(3 * PASS_S, abs=0.1)


def test_actors_on_devices_of_their_own_share_scoring_shards_and_factoring(job: JobSize) -> None:
    long = replace(ONE, tokens=3 * 4096, batches=3)  # three shards
    job = replace(job, loads={**job.loads, "calibration": long})
    factoring = replace(RATES, decomposition_flops=140)  # 100 seconds
    one, four = (phases_of(replace(job, devices=devices), rates=factoring) for devices in (1, 4))
    for name in ("search", "confirm", "test"):
        assert seconds_of(four[name]) == pytest.approx(seconds_of(one[name]) / 4, abs=0.1)
    for name in ("export", "verify"):
        assert four[name] == one[name]
    gathering = 3 * forward_flops(MODEL, long) / FORWARD * PASS_S
    saved = seconds_of(one["prepare"]) - seconds_of(four["prepare"])
    assert saved == pytest.approx(gathering * 2 / 3 + 100 * 3 / 4, abs=0.2)


def test_a_step_of_generation_takes_as_long_as_64_tokens_and_its_own(job: JobSize) -> None:
    written = replace(job, loads={**job.loads, "verify": replace(ONE, decoded=8, steps=4)})
    before, after = (phases_of(one)["verify"] for one in (job, written))
    assert after.tokens - before.tokens == 8
    assert after.flops - before.flops == 8 * (2 * 200 + 2 * 20 * 5)
    longer = (8 * (2 * 200 + 2 * 20 * 5) + 4 * 64 * 2 * 200) / FORWARD * PASS_S
    assert seconds_of(after) - seconds_of(before) == pytest.approx(longer, abs=0.1)


@pytest.mark.parametrize(("kind", "tokens"), [("prefill", 21), ("decode", 3)])
def test_measuring_latencies_takes_passes(job: JobSize, kind: WorkloadKind, tokens: int) -> None:
    load = pass_load(Workload(kind=kind, rows=3, length=7))
    phases = phases_of(replace(job, loads={**job.loads, "latency": load}))
    assert tuple(phases) == ("prepare", "latency", *PHASES[1:])
    assert phases["latency"].tokens == 5 * 10 * tokens  # four versions and single matrices, ten rounds
    assert phases["latency"].flops == 5 * 10 * forward_flops(MODEL, load)
    assert phases["latency"].host_bytes > 0


def test_files_take_time_by_their_size(job: JobSize) -> None:
    large, more = replace(MODEL, total_params=10**9 + 300), 4e9 / FILE_BYTES_PER_SECOND
    small, big = phases_of(job), phases_of(job, large)
    later = {name: seconds_of(big[name]) - seconds_of(small[name]) for name in PHASES}
    reading = {"prepare": more, "dense": 2 * more, "export": more, "verify": more}  # by two actors
    assert later == pytest.approx({name: reading.get(name, 0) for name in PHASES}, abs=0.1)
    gguf = phases_of(replace(job, gguf=True), large)["prepare"]
    assert seconds_of(gguf) - seconds_of(big["prepare"]) == pytest.approx(
        1e9 / GGUF_PARAMS_PER_SECOND, abs=0.1
    )


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [({}, 1), ({"midway_share": 0.3, "train_epochs": 3}, 3)],
)
def test_files_on_disk_are_weights_factors_and_sums(
    job: JobSize, changes: dict[str, Any], kinds: int
) -> None:
    phases = phases_of(replace(job, **changes))
    factors, sums = 4 * MATRIX.largest_rank * (20 + 10), 2 * 8 * 10**2
    disk = {"prepare": 4 * 300 + kinds * factors + sums, "export": 4 * 300}
    assert {name: phases[name].disk_bytes for name in PHASES} == {name: disk.get(name, 0) for name in PHASES}
