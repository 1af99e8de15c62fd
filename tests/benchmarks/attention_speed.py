"""What attention over short rows costs with torch's fused kernel, and what past it, forwards and back.

    .venv/bin/python tests/benchmarks/attention_speed.py

On one thread: 1,024 tokens in rows of each length, with the heads of some models. Both ways in turn, in one run; times
are the fastest of `--rounds`.
"""

import json
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from random import Random

import torch
from real_model import CPU, parser
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ranksieve.workers.cost.timing import Timed, fastest, last_of, timer_for
from ranksieve.workers.model import attention

HEADS = {"SmolLM2-135M": (9, 3, 64), "Qwen2.5-0.5B": (14, 2, 64), "Llama-3.1-8B": (32, 8, 128)}
"""Of queries, of keys and values, and the width of one."""

TOKENS = 1024
LENGTHS = (16, 32, 64)


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    rows = [
        {"model": name, "length": length, "ms": _measured(*heads, length, arguments.rounds)}
        for name, heads in HEADS.items()
        for length in LENGTHS
    ]
    for row in rows:
        print("{model:>14} rows of {length:>3}".format_map(row), _compared(row["ms"]))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def _arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5)
    return options.parse_args()


def _measured(heads: int, groups: int, width: int, length: int, rounds: int) -> dict[str, float]:
    """Milliseconds of each way."""
    module = nn.Module()
    module.num_key_value_groups = heads // groups  # type: ignore[assignment]
    rows = TOKENS // length
    inputs = [
        torch.randn(rows, length, count, width).transpose(1, 2).bfloat16().requires_grad_()
        for count in (heads, groups, groups)
    ]
    gradients = torch.randn(rows, length, heads, width).bfloat16()

    def there_and_back(function: Callable[..., tuple[torch.Tensor, None]]) -> None:
        output, _ = function(module, *inputs, None)
        torch.autograd.grad(output, inputs, gradients)

    ways = {"fused": sdpa_attention_forward, "ours": attention.attend}
    timed = {way: Timed(run=partial(there_and_back, function)) for way, function in ways.items()}
    spent = last_of(fastest(timed, timer_for(CPU, 1), rounds, Random(0)))
    return {way: taken / 1e6 for way, taken in spent.items()}


def _compared(ms: dict[str, float]) -> str:
    return f"fused {ms['fused']:,.1f} ms, ours {ms['ours']:,.1f} ms, {ms['fused'] / ms['ours']:.2f} times as fast"


if __name__ == "__main__":
    main()
