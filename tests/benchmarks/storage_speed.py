"""How fast the two storages of a low-rank matrix run against the dense one, in tokens per second on one thread.

    .venv/bin/python tests/benchmarks/storage_speed.py --share 0.4

Transformer blocks of SmolLM2-135M's shapes with random weights, as an export has them: all matrices dense, all as
pairs, all pivoted at the ranks that cost as many parameters. Every round runs all three one after the
other on the same batch; a ratio belongs to one round, so that a busy machine slows all alike.
"""

import json
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from statistics import median

import torch
from transformers import LlamaConfig, LlamaModel

from ranksieve.search.space.matrix import MatrixShape, Storage
from ranksieve.workers.model.layers import PivotedLinear, replace_linears
from ranksieve.workers.model.matrices import find_matrices

DENSE_BLOCKS = "dense"
STORAGES: tuple[Storage, ...] = ("pairs", "pivoted")
ROWS, LENGTH = 12, 64
"""Rows and tokens per row: 768 tokens, the default batch on a CPU."""


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    rows = []
    print(f"kept {arguments.share:g}, {ROWS * LENGTH} tokens, {arguments.rounds} rounds; tokens/s, medians")
    print(f"{'dtype':>10}{'dense':>9}{'pairs':>9}{'pivoted':>9}   ratio to dense (quartiles)")
    for name in arguments.dtypes:
        speeds = _measure(getattr(torch, name), arguments.share, arguments.layers, arguments.rounds)
        rows.append({"dtype": name, "share": arguments.share, "tokens_per_second": speeds})
        ratios = [_ratio(speeds, storage) for storage in STORAGES]
        medians = "".join(f"{median(speed):>9,.0f}" for speed in speeds.values())
        print(f"{name:>10}{medians}   pairs {ratios[0]}, pivoted {ratios[1]}")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def _arguments() -> Namespace:
    options = ArgumentParser(description=__doc__)
    options.add_argument("--share", type=float, default=0.4, help="share of the parameters kept")
    options.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    options.add_argument("--layers", type=int, default=4)
    options.add_argument("--rounds", type=int, default=25)
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    return options.parse_args()


def _measure(dtype: torch.dtype, share: float, layers: int, rounds: int) -> dict[str, list[float]]:
    models = {DENSE_BLOCKS: _blocks(dtype, layers)}
    for storage in STORAGES:
        models[storage] = _blocks(dtype, layers)
        ranks = {matrix.name: _rank(matrix, share, storage) for matrix in find_matrices(models[storage])}
        replace_linears(models[storage], ranks, storage)
        _shuffle_(models[storage])
    ids_BL = torch.randint(100, (ROWS, LENGTH))
    speeds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            speeds[name].append(_tokens_per_second(model, ids_BL))
    return {name: speed[2:] for name, speed in speeds.items()}  # the first rounds warm up


def _blocks(dtype: torch.dtype, layers: int) -> LlamaModel:
    config = LlamaConfig(
        vocab_size=100,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
    return LlamaModel(config).to(dtype).eval()


def _shuffle_(model: LlamaModel) -> None:
    """Gives every pivoted matrix an order as irregular as a real one."""
    for module in model.modules():
        if isinstance(module, PivotedLinear):
            module.order = torch.randperm(len(module.order)).to(torch.int32)


def _rank(matrix: MatrixShape, share: float, storage: Storage) -> int:
    """The largest rank that keeps at most `share` of the matrix."""
    ranks = range(1, matrix.largest_rank(storage) + 1)
    return max(rank for rank in ranks if matrix.price(rank, storage) <= share * matrix.dense_params)


@torch.inference_mode()
def _tokens_per_second(model: LlamaModel, ids_BL: torch.Tensor) -> float:
    started = time.perf_counter()
    model(input_ids=ids_BL, use_cache=False)
    return ids_BL.numel() / (time.perf_counter() - started)


def _ratio(speeds: dict[str, list[float]], storage: Storage) -> str:
    ratios = sorted(fast / slow for fast, slow in zip(speeds[storage], speeds[DENSE_BLOCKS], strict=True))
    quarter = len(ratios) // 4
    return f"{median(ratios):.2f} ({ratios[quarter]:.2f} to {ratios[-1 - quarter]:.2f})"


if __name__ == "__main__":
    main()
