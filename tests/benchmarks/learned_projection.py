"""Projections learned by gradient descent, as LLM-Sieve makes them (arXiv 2505.18350), against the closed form.

For a sample of matrices and several sizes, both minimise E‖W x - left·right·x‖² over the same calibration tokens: Adam
in one run per matrix and size, `factors.decomposition` by one decomposition per matrix, of which every size is a slice.
What either loses of the output's energy is measured on the tokens it saw and on tokens of the confirm split.

    learned_projection.py                                       each kind, an early, a middle and a late block
    learned_projection.py --blocks 15 --kinds q_proj down_proj  two matrices of one block

The learned side starts in float32 from the balanced SVD of W, inputs and outputs scaled to unit mean square, and takes
20 epochs of Adam in random batches of 256 tokens, at 1e-2 with 5 % linear warm-up and cosine decay to nothing: the best
of what was tried by hand. On 8,192 tokens of `q_proj` of block 15 at 0.3, where the least possible error is 0.02297:

    as above                                                   0.02302
    5e-3, 40 epochs, batches of 512                            0.02308
    3e-3                                                       0.02325
    2e-2 from random factors                                   0.02719
    1e-2 from random factors, 10 epochs, batches of 512        0.07464   3e-3 and 1e-3 are worse
    y ≈ P Pᵀ y, 1e-2 from random P, 10 epochs, batches of 512  0.05142   3e-3 and 1e-3 are worse

Legend: T tokens, D input width, O output width, R rank.
"""

import json
import math
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import geometric_mean, mean
from typing import Any

import torch
from real_model import CPU, load, parser
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.factors.decomposition import factor
from ranksieve.workers.forward.batches import make_batches
from ranksieve.workers.forward.likelihood import answer_logits
from ranksieve.workers.model.loading import load_prepared
from ranksieve.workers.model.matrices import weight_OD
from ranksieve.workers.types.plan import Example

BATCH_TOKENS = 1024
"""Of a forward pass that gathers activations, padding included."""

Pair = tuple[torch.Tensor, torch.Tensor]
"""left O×R and right R×D, float32."""

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """How projections are learned: Adam on random batches of tokens, linear warm-up, then cosine decay to nothing."""

    learning_rate: float
    epochs: int
    batch: int
    warmup: float = 0.05

    def decay(self, step: int, steps: int) -> float:
        """The factor on the learning rate at one of `steps` steps."""
        return min((step + 1) / (self.warmup * steps), 0.5 + 0.5 * math.cos(math.pi * step / steps))


def main() -> None:
    arguments = _arguments()
    model = load(arguments.data_dir, threads=arguments.threads)
    dense = load_prepared(model.prepared.model.folder, CPU)
    matrices = _sample(model.prepared.matrices, arguments.blocks, arguments.kinds)
    seen, unseen = (
        activations(dense, matrices, first_examples(model.task.splits[split], tokens))
        for split, tokens in (("calibration", arguments.tokens), ("confirm", arguments.unseen_tokens))
    )
    training = Training(learning_rate=arguments.learning_rate, epochs=arguments.epochs, batch=arguments.batch)
    rows: list[Row] = []
    print("| matrix | kept | rank | learned, seen | closed, seen | learned, unseen | closed, unseen "
          "| learned, s | closed, s |\n|---|" + "---:|" * 8)  # fmt: skip
    for matrix in matrices:
        weight = weight_OD(dense.get_submodule(matrix.name)).float()  # type: ignore[arg-type]
        rows_TD = [torch.cat(inputs[matrix.name]).float() for inputs in (seen, unseen)]
        for row in _compare(matrix, weight, *rows_TD, arguments.shares, training):
            rows.append(row)
            print(f"| `{row['matrix']}` | {_cells(row)} |", flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    _print_means(rows)


def _arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument(
        "--blocks", nargs="+", type=int, help="of the matrices; default an early, a middle and a late one"
    )
    options.add_argument("--kinds", nargs="+", help="endings of their names, such as q_proj; default all")
    options.add_argument(
        "--shares", nargs="+", type=float, default=[0.5, 0.3, 0.2], help="of a matrix's parameters kept"
    )
    options.add_argument("--tokens", type=int, default=32_768, help="to learn from, if calibration has them")
    options.add_argument("--unseen-tokens", type=int, default=16_384, help="of the confirm split")
    options.add_argument("--learning-rate", type=float, default=1e-2)
    options.add_argument("--epochs", type=int, default=20)
    options.add_argument("--batch", type=int, default=256, help="tokens of a step")
    options.add_argument("--threads", type=int, default=2)
    return options.parse_args()


def _sample(
    matrices: Sequence[MatrixShape], blocks: Sequence[int] | None, kinds: Sequence[str] | None
) -> list[MatrixShape]:
    count = 1 + max(matrix.layer for matrix in matrices)
    blocks = blocks or [count // 6, count // 2, count * 5 // 6]
    chosen = [m for m in matrices if m.layer in blocks and (not kinds or m.name.endswith(tuple(kinds)))]
    if not chosen:
        raise SystemExit(f"no matrix of blocks {blocks} ends in {kinds}; blocks go up to {count - 1}")
    return chosen


def first_examples(examples: Sequence[Example], tokens: int) -> list[Example]:
    """The first examples, up to the one that completes `tokens`."""
    taken: list[Example] = []
    for example in examples:
        if tokens <= 0:
            break
        taken.append(example)
        tokens -= sum(len(row.ids) for row in example.rows)
    return taken


@torch.no_grad()
def activations(
    model: PreTrainedModel, matrices: Sequence[MatrixShape], examples: Sequence[Example]
) -> dict[str, list[torch.Tensor]]:
    """The inputs of every matrix at all real tokens; matrices that read the same tensor share its rows."""
    inputs: dict[str, list[torch.Tensor]] = {matrix.name: [] for matrix in matrices}
    latest: dict[str, torch.Tensor] = {}

    def keep(name: str, x_BLD: torch.Tensor, mask_BL: torch.Tensor) -> None:
        if latest.get("x") is not x_BLD:
            latest.update(x=x_BLD, rows=x_BLD[mask_BL])
        inputs[name].append(latest["rows"])

    for batch in make_batches(examples, max(example.choices for example in examples), BATCH_TOKENS):
        handles = [
            model.get_submodule(name).register_forward_pre_hook(
                lambda _, args, name=name, mask_BL=batch.mask_BL: keep(name, args[0], mask_BL)
            )
            for name in inputs
        ]
        answer_logits(model, batch)
        for handle in handles:
            handle.remove()
    return inputs


def _compare(
    matrix: MatrixShape,
    weight: torch.Tensor,
    seen_TD: torch.Tensor,
    unseen_TD: torch.Tensor,
    shares: Sequence[float],
    training: Training,
) -> Iterator[Row]:
    ranks = {share: int(share * matrix.dense_params) // sum(weight.shape) for share in shares}
    started = time.perf_counter()
    closed = closed_form(weight, seen_TD, max(ranks.values()))
    closed_s = time.perf_counter() - started
    for share, rank in ranks.items():
        started = time.perf_counter()
        learned = learn(weight, seen_TD, rank, training)
        learned_s = time.perf_counter() - started
        sliced = (closed[0][:, :rank], closed[1][:rank])
        yield {
            "matrix": matrix.name,
            "share": share,
            "rank": rank,
            "tokens": len(seen_TD),
            "learned_seen": error(weight, *learned, seen_TD),
            "closed_seen": error(weight, *sliced, seen_TD),
            "learned_unseen": error(weight, *learned, unseen_TD),
            "closed_unseen": error(weight, *sliced, unseen_TD),
            "learned_s": learned_s,
            "closed_s": closed_s,
        }


def closed_form(weight: torch.Tensor, x_TD: torch.Tensor, rank: int) -> Pair:
    """From activations to factors, the Gram included, on the matrix's narrow side."""
    rows_TK = F.linear(x_TD, weight) if weight.shape[0] <= weight.shape[1] else x_TD
    factors = factor(weight, "output", rank, (rows_TK.T @ rows_TK).double() / len(rows_TK))
    return factors.left_RO.T.float(), factors.right_RD.float()


def learn(weight: torch.Tensor, x_TD: torch.Tensor, rank: int, training: Training) -> Pair:
    y_TO = F.linear(x_TD, weight)
    # inputs and outputs of unit mean square: one learning rate suits all matrices
    x_scale, y_scale = x_TD.square().mean().sqrt(), y_TO.square().mean().sqrt()
    start = factor(weight * (x_scale / y_scale), "weight", rank)
    left = nn.Parameter(start.left_RO.T.float().contiguous())
    right = nn.Parameter(start.right_RD.float())
    _descend_(left, right, x_TD / x_scale, y_TO / y_scale, training)
    return left.detach() * (y_scale / x_scale), right.detach()


def _descend_(
    left: nn.Parameter, right: nn.Parameter, x_TD: torch.Tensor, y_TO: torch.Tensor, training: Training
) -> None:
    generator = torch.Generator().manual_seed(0)
    steps = training.epochs * math.ceil(len(x_TD) / training.batch)
    optimizer = torch.optim.Adam([left, right], lr=training.learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: training.decay(step, steps))
    for _ in range(training.epochs):
        for chosen in torch.randperm(len(x_TD), generator=generator).split(training.batch):
            optimizer.zero_grad()
            F.mse_loss(F.linear(F.linear(x_TD[chosen], right), left), y_TO[chosen]).backward()
            optimizer.step()
            schedule.step()


def error(weight: torch.Tensor, left_OR: torch.Tensor, right_RD: torch.Tensor, x_TD: torch.Tensor) -> float:
    """Share of the output's energy that is lost, E‖W x - left·right·x‖² / E‖W x‖²."""
    y_TO = F.linear(x_TD, weight)
    lost_TO = y_TO - F.linear(F.linear(x_TD, right_RD), left_OR)
    return float(lost_TO.double().square().sum() / y_TO.double().square().sum())


def _cells(row: Row) -> str:
    errors = [
        f"{row[f'{who}_{tokens}']:.4f}" for tokens in ("seen", "unseen") for who in ("learned", "closed")
    ]
    return " | ".join(
        [f"{row['share']:g}", str(row["rank"]), *errors, f"{row['learned_s']:.1f}", f"{row['closed_s']:.2f}"]
    )


def _print_means(rows: list[Row]) -> None:
    """Learned over closed: geometric means of the errors' ratios, and all sizes' seconds per matrix."""
    matrices = len({row["matrix"] for row in rows})
    learned_s = sum(row["learned_s"] for row in rows) / matrices
    closed_s = mean(row["closed_s"] for row in rows)
    print(f"\n{rows[0]['tokens']:,} tokens seen; per matrix, all sizes: learned {learned_s:.1f} s, "
          f"closed form {closed_s:.2f} s")  # fmt: skip
    for tokens in ("seen", "unseen"):
        ratio = geometric_mean(row[f"learned_{tokens}"] / row[f"closed_{tokens}"] for row in rows)
        print(f"learned error over closed form's, {tokens} tokens: {ratio:.4f} (geometric mean)")


if __name__ == "__main__":
    main()
