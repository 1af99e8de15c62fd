"""What the way back through short rows costs with torch's fused attention kernel, and what past it.

    .venv/bin/python tests/benchmarks/attention_speed.py

First attention alone, forwards and back, on one thread: 1,024 tokens in rows of each length, with the heads of some
models. Then a round as reweighing and descent have them: how the demo's model, at `--share` of its parameters, reacts
on `--examples` records. All in turn, in one run; times are the fastest of `--rounds`.
"""

import json
from argparse import Namespace
from collections.abc import Callable, Mapping
from functools import partial
from random import Random
from unittest.mock import patch

import torch
from real_model import CPU, load, parser
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ranksieve.search.start.seeds import lagrangian
from ranksieve.service.policy import policy_of
from ranksieve.workers.cost.timing import Timed, fastest, last_of, timer_for
from ranksieve.workers.model import attention
from ranksieve.workers.scoring.slopes import measure_slopes

HEADS = {"SmolLM2-135M": (9, 3, 64), "Qwen2.5-0.5B": (14, 2, 64), "Llama-3.1-8B": (32, 8, 128)}
"""Of queries, of keys and values, and the width of one."""

TOKENS = 1024
LENGTHS = (16, 32, 64)
WAYS = {"fused": 0, "ours": attention.SHORT}
"""The longest rows that go past the fused kernel."""


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    alone = [
        {"model": name, "length": length, "ms": _alone(*heads, length, arguments.rounds)}
        for name, heads in HEADS.items()
        for length in LENGTHS
    ]
    for row in alone:
        print("{model:>14} rows of {length:>3}".format_map(row), _compared(row["ms"]))
    whole = _round(arguments)
    print(f"{'':>6}slopes on {arguments.examples}", _compared(whole))
    if arguments.json:
        arguments.json.write_text(json.dumps({"attention": alone, "slopes_ms": whole}, indent=1) + "\n")


def _arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--share", type=float, default=0.2)
    options.add_argument("--examples", type=int, default=192)
    options.add_argument("--rounds", type=int, default=5)
    return options.parse_args()


def _alone(heads: int, groups: int, width: int, length: int, rounds: int) -> dict[str, float]:
    module = nn.Module()
    module.num_key_value_groups = heads // groups  # type: ignore[assignment]
    rows = TOKENS // length
    inputs = [
        torch.randn(rows, length, count, width).transpose(1, 2).bfloat16().requires_grad_()
        for count in (heads, groups, groups)
    ]
    slopes = torch.randn(rows, length, heads, width).bfloat16()

    def there_and_back(function: Callable[..., tuple[torch.Tensor, None]]) -> None:
        output, _ = function(module, *inputs, None)
        torch.autograd.grad(output, inputs, slopes)

    ways = {"fused": sdpa_attention_forward, "ours": attention.attend}
    return _fastest({way: partial(there_and_back, function) for way, function in ways.items()}, rounds)


def _round(arguments: Namespace) -> dict[str, float]:
    model = load(arguments.data_dir, threads=1)
    ranks = model.space.ranks(lagrangian(model.space, model.prepared.energies, arguments.share))
    examples = model.task.splits["calibration"][: arguments.examples]
    known: list[torch.Tensor] = []

    def slopes(short: int) -> None:
        with patch.object(attention, "SHORT", short):
            measure_slopes(
                model.switchable,
                ranks,
                model.task.kind,
                examples,
                model.spec.resources.batch_tokens,
                kl_weight=policy_of(model.spec).kl_weight,
                window=model.space.rank_step,
                known=known,
            )

    return _fastest({way: partial(slopes, short) for way, short in WAYS.items()}, arguments.rounds)


def _fastest(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds of each."""
    timed = {way: Timed(run=call) for way, call in calls.items()}
    spent = last_of(fastest(timed, timer_for(CPU, 1), rounds, Random(0)))
    return {way: taken / 1e6 for way, taken in spent.items()}


def _compared(ms: dict[str, float]) -> str:
    return f"fused {ms['fused']:,.1f} ms, ours {ms['ours']:,.1f} ms, {ms['fused'] / ms['ours']:.2f} times as fast"


if __name__ == "__main__":
    main()
