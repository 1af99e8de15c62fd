"""Speed of a machine: a timed processor, or a GPU by its data sheet.

A processor is timed in less than a second. Timing a GPU would hold some of its memory for as long as this process
lives, and actors may have filled it. `workers.cost.estimate` turns amounts of work into seconds with these rates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

import torch

from ranksieve.workers.cost.timing import ProcessorTimer, Timed, fastest, last_of
from ranksieve.workers.machine.devices import device_name
from ranksieve.workers.machine.limits import memory_bytes
from ranksieve.workers.model.loading import choose_dtype

SIZE = 768
ROWS = 512
DECOMPOSED = 256
"""Widths of what is timed, large enough to keep every unit busy."""

ROUNDS = 20

EIGH_FLOPS = 9
"""FLOPs of a symmetric eigendecomposition of width n over n³.

Source: Golub and Van Loan, Matrix Computations, 8.3.
"""

MEASURED = 0.5
"""Share of the timed rate that a whole model reaches; norms, attention and Python take the rest."""

ASSUMED = 0.27
"""Share of a data sheet's peak that a whole model reaches.

Training at scale reaches 0.46 (PaLM, arXiv 2204.02311) and 0.38 to 0.43 (Llama 3, arXiv 2407.21783) with fused
kernels; plain transformers stays below.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """Best rates of one device per second.

    `utilisation`: share of `flops` that a whole model reaches. `flops`: by dtype. `decomposition_flops`: float64,
    inside an eigendecomposition. `capacity_bytes`: memory of the device.
    """

    name: str
    measured: bool
    flops: Mapping[str, float]
    decomposition_flops: float
    capacity_bytes: float
    utilisation: float


def _sheet(name: str, half: float, single: float, capacity: float) -> Rates:
    return Rates(
        name=name,
        measured=False,
        flops={"bfloat16": half, "float16": half, "float32": single},
        # Not on any data sheet: half of the reduction to tridiagonal form is matrix-vector products, far below the
        # peak of the matrix units. Assumed, and the least certain number here.
        decomposition_flops=2e12,
        capacity_bytes=capacity,
        utilisation=ASSUMED,
    )


DATA_SHEETS: Mapping[str, Rates] = {
    # NVIDIA H100 Tensor Core GPU data sheet, SXM5: dense bf16 (half of the figure with sparsity), fp32 without TF32
    "H100": _sheet("H100 SXM 80 GB", 989e12, 67e12, 80e9),
    # NVIDIA H200 data sheet: the same compute, more memory
    "H200": _sheet("H200 SXM 141 GB", 989e12, 67e12, 141e9),
    # NVIDIA A100 data sheet, SXM4 80 GB
    "A100": _sheet("A100 SXM 80 GB", 312e12, 19.5e12, 80e9),
}
IMAGINED = "H100"
"""GPU that is assumed if there is none with a known data sheet."""


def rates_for(device: str, dtype: str, threads: int) -> Rates:
    """Return the rates of the job's device.

    Args:
        device: `cpu` or `cuda`.
        dtype: The working dtype.
        threads: Threads of the whole job, for `cpu`.

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
    """Time a product and an eigendecomposition on this machine's processor.

    One thread is timed, by its processor time, which other work on the machine hardly changes. All threads are
    assumed to be as fast.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        product_flops, decomposition_flops = _rates_of_a_thread(dtype)
    finally:
        torch.set_num_threads(before)
    return Rates(
        name=f"{device_name(torch.device('cpu'))}, {threads} threads",
        measured=True,
        flops={dtype: threads * product_flops},
        decomposition_flops=threads * decomposition_flops,
        capacity_bytes=float(memory_bytes()),
        utilisation=MEASURED,
    )


def _rates_of_a_thread(dtype: str) -> tuple[float, float]:
    """Return the FLOPs per second of products and of decompositions."""
    x_TD = torch.ones(ROWS, SIZE, dtype=getattr(torch, dtype))
    w_OD = torch.ones(SIZE, SIZE, dtype=getattr(torch, dtype))
    generator = torch.Generator().manual_seed(0)
    factor_NN = torch.randn(DECOMPOSED, DECOMPOSED, dtype=torch.float64, generator=generator)
    gram_NN = factor_NN @ factor_NN.T
    calls = {
        "product": Timed(run=lambda: torch.nn.functional.linear(x_TD, w_OD)),
        "decomposition": Timed(run=lambda: torch.linalg.eigh(gram_NN)),
    }
    nanoseconds = last_of(fastest(calls, ProcessorTimer(1), ROUNDS, Random(0)))
    return (
        2e9 * ROWS * SIZE**2 / nanoseconds["product"],
        1e9 * EIGH_FLOPS * DECOMPOSED**3 / nanoseconds["decomposition"],
    )
