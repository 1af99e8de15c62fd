"""Speed of a machine: a timed processor, or a GPU by its data sheet.

A processor is timed in about a second. Timing a GPU would hold some of its memory for as long as this process lives,
and actors may have filled it. `workers.cost.operations` turns amounts of work into seconds with these rates.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ranksieve.workers.machine import limits
from ranksieve.workers.machine.devices import device_name
from ranksieve.workers.model.loading import choose_dtype

SIZE = 768
ROWS = 512
DECOMPOSED = 256
"""Widths of what is timed, large enough to keep every unit busy.

Each takes milliseconds, so that on a shared machine some repetitions fall between the turns of others.
"""

COPIED_BYTES = 32 * 2**20
"""Size of a timed copy, beyond the caches of most processors."""

BUDGET_S = 0.2
EIGH_FLOPS = 9
"""FLOPs of a symmetric eigendecomposition of width n over n³.

Source: Golub and Van Loan, Matrix Computations, 8.3.
"""

MEASURED = (0.3, 0.9)
"""Range of the share of the timed rate that a whole model reaches.

Norms, attention and Python take the rest.
"""

ASSUMED = (0.15, 0.5)
"""Range of the share of a data sheet's peak that a whole model reaches.

Training at scale reaches 0.46 (PaLM, arXiv 2204.02311) and 0.38 to 0.43 (Llama 3, arXiv 2407.21783) with fused
kernels; plain transformers stays below.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """Best rates of one device per second.

    `utilisation`: range of the share of these rates that a job reaches. `flops`: by dtype. `decomposition_flops`:
    float64, inside an eigendecomposition. `memory_bytes`: read or written per second. `capacity_bytes`: memory of the
    device.
    """

    name: str
    measured: bool
    flops: Mapping[str, float]
    decomposition_flops: float
    memory_bytes: float
    capacity_bytes: float
    utilisation: tuple[float, float]


def _sheet(name: str, half: float, single: float, double: float, bandwidth: float, capacity: float) -> Rates:
    return Rates(
        name=name,
        measured=False,
        flops={"bfloat16": half, "float16": half, "float32": single, "float64": double},
        # Not on any data sheet: half of the reduction to tridiagonal form is matrix-vector products, far below the
        # peak of the matrix units. Assumed, and the least certain number here.
        decomposition_flops=2e12,
        memory_bytes=bandwidth,
        capacity_bytes=capacity,
        utilisation=ASSUMED,
    )


DATA_SHEETS: Mapping[str, Rates] = {
    # NVIDIA H100 Tensor Core GPU data sheet, SXM5: dense bf16 (half of the figure with sparsity), fp32 without TF32,
    # fp64 on tensor cores
    "H100": _sheet("H100 SXM 80 GB", 989e12, 67e12, 67e12, 3.35e12, 80e9),
    # NVIDIA H200 data sheet: the same compute, more and faster memory
    "H200": _sheet("H200 SXM 141 GB", 989e12, 67e12, 67e12, 4.8e12, 141e9),
    # NVIDIA A100 data sheet, SXM4 80 GB
    "A100": _sheet("A100 SXM 80 GB", 312e12, 19.5e12, 19.5e12, 2.039e12, 80e9),
}
IMAGINED = "H100"
"""GPU that is assumed if there is none with a known data sheet."""


def rates_for(device: str, dtype: str, threads: int) -> Rates:
    """Return the rates of the job's device.

    Args:
        device: `cpu` or `cuda`.
        dtype: The working dtype.
        threads: Threads of the whole job, for `cpu`. Rates are scaled up if this machine has fewer.

    Returns:
        Timed rates for `cpu`, else those of a data sheet: of the present GPU, or of `IMAGINED`.
    """
    if device == "cpu":
        return measure(dtype, threads)
    name = device_name(torch.device("cuda")) if torch.cuda.is_available() else IMAGINED
    return next((sheet for key, sheet in DATA_SHEETS.items() if key in name), DATA_SHEETS[IMAGINED])


def dtype_name(wanted: str, device: str) -> str:
    """Return the working dtype on `cpu` or `cuda`.

    Without a GPU, `cuda` means a device of the data sheets, which multiplies bfloat16.
    """
    if device == "cuda" and not torch.cuda.is_available():
        return "bfloat16" if wanted == "auto" else wanted
    return str(choose_dtype(wanted, torch.device(device))).removeprefix("torch.")


def measure(dtype: str, threads: int) -> Rates:
    """Time products and one decomposition on this machine's processor.

    It takes about a second. Every rate is that of the fastest repetition, which other work on the machine disturbed
    least.
    """
    before = torch.get_num_threads()
    used = min(threads, limits.processors())
    torch.set_num_threads(used)
    try:
        more = threads / used
        flops = {name: more * _product_rate(name) for name in dict.fromkeys((dtype, "float32", "float64"))}
        decomposition_flops = more * _decomposition_rate()
        memory_bytes = _memory_rate()
    finally:
        torch.set_num_threads(before)
    return Rates(
        name=f"{device_name(torch.device('cpu'))}, {threads} threads",
        measured=True,
        flops=flops,
        decomposition_flops=decomposition_flops,
        memory_bytes=memory_bytes,
        capacity_bytes=float(limits.memory_bytes()),
        utilisation=MEASURED,
    )


def _product_rate(dtype: str) -> float:
    x_TD = torch.ones(ROWS, SIZE, dtype=getattr(torch, dtype))
    w_OD = torch.ones(SIZE, SIZE, dtype=getattr(torch, dtype))
    return 2 * ROWS * SIZE**2 / _fastest(lambda: torch.nn.functional.linear(x_TD, w_OD))


def _decomposition_rate() -> float:
    generator = torch.Generator().manual_seed(0)
    x_NN = torch.randn(DECOMPOSED, DECOMPOSED, dtype=torch.float64, generator=generator)
    gram_NN = x_NN @ x_NN.T
    return EIGH_FLOPS * DECOMPOSED**3 / _fastest(lambda: torch.linalg.eigh(gram_NN))


def _memory_rate() -> float:
    values = torch.ones(COPIED_BYTES // 4, dtype=torch.float32)
    target = torch.zeros_like(values)  # allocated before, as fresh pages cost more than the copy
    return 2 * COPIED_BYTES / _fastest(lambda: target.copy_(values))


def _fastest(run: Callable[[], object]) -> float:
    """Return the seconds of the fastest repetition.

    The first one is left out, as it may set things up.
    """
    run()
    started, fastest = time.perf_counter(), float("inf")
    while (begun := time.perf_counter()) < started + BUDGET_S:
        run()
        fastest = min(fastest, time.perf_counter() - begun)
    return fastest
