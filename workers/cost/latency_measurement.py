"""Measurement of the latency of every rank of every matrix on this device.

The table serves a search for a latency. Legend: O output width, D input width, B rows, L tokens of a row that are run
at once.

Matrices of one shape are timed once, alone, as the layers of an export (`workers.model.layers`): dense, removed, and
at ranks of the grid, with lines between them where the grid has more. A matrix alone does not take the same time as
inside the model. So the whole model is timed, too: dense, with all matrices removed, and with a rank of every matrix
that was drawn from its grid, as a search mixes them. The table is stretched to add up to all three: dense matrices by
one factor, ranks by another. Times of matrices alone only distribute the model's time among them. At last the model
is timed with half of the parameters of every matrix. The difference to the table's time there is its error.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from random import Random
from typing import Any, TypeVar, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from ranksieve.search.errors import InputError
from ranksieve.search.space.latency import Curve, LatencyTable, isotonic
from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.workers.cost.latency import Latency, LatencyPlan
from ranksieve.workers.cost.timing import MakeTimer, Timed, Timer, fastest, timer_for
from ranksieve.workers.cost.workload import forward_pass
from ranksieve.workers.machine.devices import device_name, pick_device, require_memory
from ranksieve.workers.model.layers import replace_linears
from ranksieve.workers.model.loading import load_prepared, weight_bytes
from ranksieve.workers.types.progress import Progress

MOST_RANKS = 32
"""Largest number of timed ranks of a shape, besides dense and removed."""

ROUNDS = 9
"""Number of rounds of the single matrices, and of the whole model."""

VERSIONS = 4
"""Number of versions of the whole model: dense, removed, mixed and half."""

CHECKED_DENSITY = 0.5

Result = TypeVar("Result")
Shape = tuple[type, int, int, bool]
"""Class of a linear module, O, D, and whether it has a bias."""


def measure_latency(plan: LatencyPlan, make_timer: MakeTimer = timer_for) -> Iterator[Progress | Latency]:
    """Yield progress and, last, the table.

    Args:
        plan: Matrices and workload to time.
        make_timer: Function that returns the timer of a device and a number of threads.

    Raises:
        InputError: The matrices take no measurable time beside the rest of the model.
    """
    torch.set_num_threads(plan.threads)
    device, total = pick_device(plan.device), 2 * ROUNDS
    yield Progress(phase="latency", done=0, total=total)
    require_memory(device, 2 * weight_bytes(plan.model_folder))
    model, timer = (
        load_prepared(plan.model_folder, device, matrices=plan.matrices),
        make_timer(device, plan.threads),
    )
    shapes = _by_shape(model, plan.matrices)
    alone = yield from _progress(_time_shapes(model, shapes, plan, timer), 0, total)
    whole = yield from _progress(_time_model(model, plan, timer), ROUNDS, total)
    dense, ranks = _stretched(plan, shapes, alone, whole)
    table = LatencyTable(
        curves=tuple(
            _curve({rank: alone[shape, rank] for other, rank in alone if other == shape}, some, dense, ranks)
            for shape, some in shapes.items()
        ),
        other_nanoseconds=whole["gone"],
    )
    yield Latency(
        table=table,
        device=device_name(device),
        dtype=str(model.dtype).removeprefix("torch."),
        threads=plan.threads,
        workload=plan.workload,
        stretched=dense,
        stretched_ranks=ranks,
        checked_nanoseconds=whole["half"],
        expected_nanoseconds=table.nanoseconds(plan.matrices, _half(plan)),
    )


def measured_ranks(matrix: MatrixShape, rank_step: int) -> tuple[int, ...]:
    """Return the ranks of a matrix to time.

    These are 0, the ranks of its grid or `MOST_RANKS` of them, and the last. The last rank below break-even may be
    off the grid; no matrix can be frozen above it.
    """
    ranks = [rank for rank in matrix.grid(rank_step) if rank > 0]
    if len(ranks) > MOST_RANKS:
        ranks = [ranks[round(i * (len(ranks) - 1) / (MOST_RANKS - 1))] for i in range(MOST_RANKS)]
    return tuple(sorted({0, *ranks, matrix.largest_rank}))


def _by_shape(model: PreTrainedModel, matrices: Sequence[MatrixShape]) -> dict[Shape, list[MatrixShape]]:
    shapes: dict[Shape, list[MatrixShape]] = {}
    for matrix in matrices:
        module: Any = model.get_submodule(matrix.name)
        key = (type(module), matrix.out_features, matrix.in_features, module.bias is not None)
        shapes.setdefault(key, []).append(matrix)
    return shapes


def _time_shapes(
    model: PreTrainedModel, shapes: Mapping[Shape, Sequence[MatrixShape]], plan: LatencyPlan, timer: Timer
) -> Generator[int, None, dict[tuple[Shape, int], int]]:
    """Time one matrix of each shape at each of its ranks."""
    generator = torch.Generator().manual_seed(0)
    calls: dict[tuple[Shape, int], Timed] = {}
    for shape, (matrix, *_) in shapes.items():
        dense: Any = model.get_submodule(matrix.name)
        size = (*plan.workload.shape_BL, matrix.in_features)
        x_BLD = torch.randn(size, generator=generator).to(dense.weight.device, model.dtype)
        for rank in (*measured_ranks(matrix, plan.rank_step), DENSE):
            calls[shape, rank] = _call(stand_in(dense, rank), x_BLD)
    return (yield from fastest(calls, timer, ROUNDS, Random(0)))


def _call(layer: nn.Module, x_BLD: torch.Tensor) -> Timed:
    """Return a timed run of a layer on a freshly written input, as inside a model."""
    fresh = [x_BLD]

    def write() -> None:
        fresh[0] = x_BLD.clone()

    return Timed(run=lambda: layer(fresh[0]), prepare=write)


def _time_model(
    model: PreTrainedModel, plan: LatencyPlan, timer: Timer
) -> Generator[int, None, dict[str, int]]:
    """Time the whole model: dense, without the matrices, mixed and half."""
    run = forward_pass(model, plan.workload)
    ranks = {
        "dense": [DENSE] * len(plan.matrices),
        "gone": [0] * len(plan.matrices),
        "mixed": _mixed(plan),
        "half": _half(plan),
    }
    names = [matrix.name for matrix in plan.matrices]
    modules = [model.get_submodule(name) for name in names]
    calls = {}
    for version, of_version in ranks.items():
        layers = [stand_in(*pair) for pair in zip(modules, of_version, strict=True)]
        calls[version] = pass_with(model, dict(zip(names, layers, strict=True)), run)
    return (yield from fastest(calls, timer, ROUNDS, Random(0)))


def pass_with(model: PreTrainedModel, layers: Mapping[str, nn.Module], run: Timed) -> Timed:
    """Return a forward pass to time with these layers in the model.

    The layers of the model after it are unspecified.
    """

    def put_in_place() -> None:
        for name, layer in layers.items():
            model.set_submodule(name, layer)
        run.prepare()

    return Timed(run=run.run, prepare=put_in_place)


def stand_in(dense: nn.Module, rank: int) -> nn.Module:
    """Return the layer of an export in place of a dense one at a rank.

    Its numbers are random.
    """
    if rank == DENSE:
        return dense
    holder = nn.ModuleDict({"layer": dense})
    with torch.device(dense.weight.device):  # type: ignore[arg-type]
        replace_linears(holder, {"layer": rank})
    return holder["layer"].requires_grad_(False)


def _mixed(plan: LatencyPlan) -> list[int]:
    """Return a rank of every matrix, or dense, drawn from the timed ones."""
    rng = Random(0)
    timed = (measured_ranks(matrix, plan.rank_step)[1:] for matrix in plan.matrices)
    return [rng.choice((*ranks, DENSE)) for ranks in timed]


def _half(plan: LatencyPlan) -> list[int]:
    """Return the largest rank of each grid that keeps at most half of a matrix."""
    return [
        max(
            rank
            for rank in matrix.grid(plan.rank_step)
            if rank >= 0 and matrix.density(rank) <= CHECKED_DENSITY
        )
        for matrix in plan.matrices
    ]


def _stretched(
    plan: LatencyPlan,
    shapes: Mapping[Shape, Sequence[MatrixShape]],
    alone: Mapping[tuple[Shape, int], int],
    whole: Mapping[str, int],
) -> tuple[float, float]:
    """Return the factors of dense matrices' and of ranks' times.

    Multiplied by them, times of matrices alone add up to those of whole models.

    Raises:
        InputError: The matrices take no measurable time.
    """
    shape_of = {matrix.name: shape for shape, matrices in shapes.items() for matrix in matrices}

    def by_themselves(ranks: Sequence[int], *, dense: bool) -> int:
        pairs = [(shape_of[m.name], rank) for m, rank in zip(plan.matrices, ranks, strict=True)]
        return sum(alone[shape, rank] - alone[shape, 0] for shape, rank in pairs if (rank == DENSE) == dense)

    all_dense = by_themselves([DENSE] * len(plan.matrices), dense=True)
    if all_dense <= 0 or whole["dense"] <= whole["gone"]:
        raise InputError(
            "objective",
            "the matrices take no measurable time beside the rest of the model; "
            "give more rows or a larger length, or another objective",
        )
    stretched, mixed = (whole["dense"] - whole["gone"]) / all_dense, _mixed(plan)
    of_ranks = whole["mixed"] - whole["gone"] - stretched * by_themselves(mixed, dense=True)
    alone_ranks = by_themselves(mixed, dense=False)
    known = alone_ranks > 0 and of_ranks > 0  # a grid may have no ranks
    return stretched, of_ranks / alone_ranks if known else stretched


def _curve(
    spent: Mapping[int, int], matrices: Sequence[MatrixShape], stretched: float, stretched_ranks: float
) -> Curve:
    ranks = sorted(rank for rank in spent if rank != DENSE)
    risen = isotonic([spent[rank] for rank in ranks])
    return Curve(
        ranks=tuple(ranks),
        nanoseconds=tuple(round(stretched_ranks * (value - risen[0])) for value in risen),
        dense_nanoseconds=max(0, round(stretched * (spent[DENSE] - spent[0]))),
        matrices=tuple(matrix.name for matrix in matrices),
    )


def _progress(
    rounds: Generator[int, None, Result], before: int, total: int
) -> Generator[Progress, None, Result]:
    while True:
        try:
            done = next(rounds)
        except StopIteration as ended:
            return cast(Result, ended.value)
        yield Progress(phase="latency", done=before + done, total=total)
