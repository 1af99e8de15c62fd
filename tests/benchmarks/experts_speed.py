"""How fast a mixture's experts run one after the other, at low rank, against all at once and dense, on one thread.

    .venv/bin/python tests/benchmarks/experts_speed.py [--experts 16 64] [--shares 0.5 0.25] [--dtypes bfloat16]

Blocks of Qwen3-MoE with random weights: as `transformers` runs them, with all experts of a block at once; taken apart
(`workers.model.experts`), as a job searches them; and taken apart at the ranks that keep so much of every matrix of
an expert, as an export has them. Attention stays dense. The processor's time of one thread, the fastest of the rounds.
"""

import json
from argparse import ArgumentParser, Namespace
from copy import deepcopy
from pathlib import Path
from random import Random

import torch
from transformers import Qwen3MoeConfig, Qwen3MoeModel

from ranksieve.workers.cost.timing import ProcessorTimer, Timed, fastest, last_of
from ranksieve.workers.model.experts import stacked_experts, take_apart
from ranksieve.workers.model.layers import replace_linears
from ranksieve.workers.model.matrices import find_matrices

LENGTHS = (1, 64, 768)
"""Tokens of a forward pass: one that is written, a short prompt, the default batch on a CPU."""


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    rows = []
    forms = ["at once", "one by one", *(f"{share:g} kept" for share in arguments.shares)]
    print(
        f"{'dtype':>9} {'experts':>7} {'of each token':>13} {'tokens':>6}  "
        + "  ".join(f"{form:>18}" for form in forms)
    )
    for dtype in arguments.dtypes:
        for experts in arguments.experts:
            models = _models(getattr(torch, dtype), experts, arguments)
            for length in LENGTHS:
                spent = _spent(models, length, arguments.rounds)
                rows.append({"dtype": dtype, "experts": experts, "tokens": length, "nanoseconds": spent})
                printed = "  ".join(
                    f"{time / 1e6:9.2f} ms {spent['at once'] / time:5.2f}x" for time in spent.values()
                )
                print(f"{dtype:>9} {experts:>7} {arguments.chosen:>13} {length:>6}  {printed}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


def _arguments() -> Namespace:
    options = ArgumentParser(description=__doc__)
    options.add_argument("--experts", type=int, nargs="+", default=[16, 64])
    options.add_argument("--chosen", type=int, default=4, help="experts of a token")
    options.add_argument("--hidden", type=int, default=768)
    options.add_argument("--inner", type=int, default=384, help="width inside an expert")
    options.add_argument("--layers", type=int, default=2)
    options.add_argument("--shares", type=float, nargs="*", default=[0.5, 0.25])
    options.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    return options.parse_args()


def _models(dtype: torch.dtype, experts: int, arguments: Namespace) -> dict[str, Qwen3MoeModel]:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=100, hidden_size=arguments.hidden, moe_intermediate_size=arguments.inner,
        num_hidden_layers=arguments.layers, num_attention_heads=12, num_key_value_heads=4, head_dim=64,
        num_experts=experts, num_experts_per_tok=arguments.chosen,
    )  # fmt: skip
    stacked = Qwen3MoeModel(config).to(dtype).eval().requires_grad_(False)
    apart = deepcopy(stacked)
    take_apart(apart, stacked_experts(apart))
    models = {"at once": stacked, "one by one": apart}
    for share in arguments.shares:
        low_rank = deepcopy(apart)
        matrices = find_matrices(low_rank, ["*.experts.*"])
        ranks = {m.name: round(share * m.dense_params / (m.out_features + m.in_features)) for m in matrices}
        replace_linears(low_rank, ranks)
        models[f"{share:g} kept"] = low_rank.requires_grad_(requires_grad=False)
    return models


def _spent(models: dict[str, Qwen3MoeModel], length: int, rounds: int) -> dict[str, int]:
    """Nanoseconds of one forward pass of each model."""
    ids_BL = torch.randint(100, (1, length))
    calls = {
        name: Timed(run=lambda model=model: model(input_ids=ids_BL, use_cache=False))  # type: ignore[misc]
        for name, model in models.items()
    }
    return last_of(fastest(calls, ProcessorTimer(threads=1), rounds, Random(0)))


if __name__ == "__main__":
    main()
