"""A whole model with projections learned by gradient descent against the closed form, from the same tokens.

`learned_projection.py` compares the two matrix by matrix. Here every matrix of the demo's model is factored both ways,
from what it reads in the dense model on the same calibration tokens, at the same rank, one density for all matrices,
and both models are scored on the same confirm reviews, by what scores the candidates of a search. A third way is
`task`: factors as a job makes them before training, from the same reviews, ranks as its Lagrangian allocates them.

    learned_model.py                                      all ways, at 0.8 and 0.6 of the parameters
    learned_model.py --ways closed --shares .9 .8 .7 .6   the closed form alone, in a few minutes

All factors are rounded to the model's dtype, as a job's. A row has the points of accuracy that the model loses, its KL
from the dense model and the rise of the right answers' negative log-likelihood, both in nats; the share of the outputs'
energy that is lost on the tokens seen (geometric mean over the matrices); and the seconds from activations to factors,
of one size where they are learned, else of all. For `task`, that takes passes of its own over the reviews, they are
those of whatever the cache does not hold.

The learned side is that of `learned_projection.py` but for its steps, which are smaller and more: at these sizes the
SVD of W is not far from the optimum, and few tokens are few steps. Energy lost on 4,101 tokens by `q_proj` and
`down_proj` of block 15 at 0.8, in 10 epochs but where others are named, as a multiple of the least possible:

    1e-2, batches of 256             1.396    1.710    as there
    3e-3, batches of 256             1.189    1.355
    1e-3, batches of 256             1.285    1.418
    3e-3, batches of 64              1.027    1.107    the default
    1e-3, batches of 64              1.075    1.116
    5e-3, batches of 64              1.029    1.248    6 epochs: 1.076, 1.345
    3e-3, batches of 32              1.015    1.078    5 epochs: 1.054, 1.229
    the SVD of W, nothing learned    5.915    4.970

Legend: T tokens, D input width, O output width, R rank.
"""

import json
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import geometric_mean

import torch
from learned_projection import Pair, Training, activations, closed_form, error, first_examples, learn
from real_model import CPU, RealModel, load, parser, preparation_plan
from search_table import gain
from transformers import PreTrainedModel

from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.search.start.seeds import lagrangian
from ranksieve.service.policy import MIDWAY_SHARE
from ranksieve.workers.model.loading import load_prepared
from ranksieve.workers.model.matrices import weight_OD
from ranksieve.workers.model.switchable import switchable_module
from ranksieve.workers.types.plan import Example
from ranksieve.workers.types.scores import ScoreRequest, Scores, metric_of

BLOCKS = 5
"""Whose activations are held at once: those of all blocks may not fit into memory."""

WAYS = ("task", "closed", "learned")

Factoring = Callable[[torch.Tensor, torch.Tensor, int], Pair]
"""Of a weight O×D, inputs T×D and a rank."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A model whose factors are installed: its ranks, what each matrix loses on the tokens seen, how long that took."""

    way: str
    share: float
    ranks: tuple[int, ...]
    errors: tuple[float, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What a candidate is worth; `beyond_closed`: how much more it loses than the closed form, with intervals."""

    candidate: Candidate
    kept: float
    lost_points: float
    kl_nats: float
    nll_rise_nats: float
    beyond_closed: dict[str, list[float]]

    def cells(self) -> str:
        one = self.candidate
        lost = f"{geometric_mean(one.errors):.4f}" if one.errors else ""
        return (
            f"| {one.share:g} | {self.kept:.3f} | {one.way} | {self.lost_points:.1f} | {self.kl_nats:.4f} "
            f"| {self.nll_rise_nats:+.4f} | {lost} | {one.seconds:.0f} |"
        )


class Bench:
    """Scores whatever factors the demo's model has on confirm reviews.

    Args:
        model: Whose factors may be replaced meanwhile.
        examples: How many reviews.
    """

    def __init__(self, model: RealModel, examples: int) -> None:
        self._model = model
        self._examples = examples
        self._closed: dict[float, Scores] = {}
        self.dense, beliefs = model.scorer.score_dense(self._request([DENSE] * len(model.prepared.matrices)))
        model.scorer.set_beliefs({"confirm": beliefs})

    def row(self, candidate: Candidate) -> Row:
        scores = self._model.scorer.score(self._request(candidate.ranks))
        if not isinstance(scores, Scores):
            raise SystemExit(f"{candidate.way} at {candidate.share} cannot be scored: {scores.reason}")
        if candidate.way == "closed":
            self._closed[candidate.share] = scores
        matrices = self._model.prepared.matrices
        kept = sum(m.price(rank) for m, rank in zip(matrices, candidate.ranks, strict=True))
        return Row(
            candidate=candidate,
            kept=kept / sum(matrix.dense_params for matrix in matrices),
            lost_points=100 * (metric_of("choice", self.dense) - metric_of("choice", scores)),
            kl_nats=float(scores.kl_nats.mean()),
            nll_rise_nats=float((scores.nll_nats - self.dense.nll_nats).mean()),
            beyond_closed=self._beyond_closed(candidate, scores) if candidate.way == "learned" else {},
        )

    def _beyond_closed(self, candidate: Candidate, scores: Scores) -> dict[str, list[float]]:
        closed = self._closed.get(candidate.share)
        if closed is None:
            return {}
        return {
            "points": gain(100 * closed.quality, 100 * scores.quality),
            "kl_nats": gain(scores.kl_nats, closed.kl_nats),
            "nll_nats": gain(scores.nll_nats, closed.nll_nats),
        }

    def _request(self, ranks: Sequence[int]) -> ScoreRequest:
        return ScoreRequest(ranks=tuple(ranks), split="confirm", start=0, stop=self._examples)


def main() -> None:
    arguments = _arguments()
    plan, _ = preparation_plan(arguments.data_dir, seed=arguments.seed)
    examples = first_examples(plan.task.splits["calibration"], arguments.tokens)
    started = time.perf_counter()
    model = load(
        arguments.data_dir,
        midway_share=MIDWAY_SHARE,
        gram_examples=len(examples),
        seed=arguments.seed,
        threads=arguments.threads,
    )
    task_s = time.perf_counter() - started
    bench = Bench(model, arguments.examples)
    tokens = sum(len(row.ids) for example in examples for row in example.rows)
    print(f"{tokens:,} tokens of {len(examples)} reviews; {arguments.examples} confirm reviews, dense accuracy "
          f"{metric_of('choice', bench.dense):.4f}\n")  # fmt: skip
    print("| asked | kept | way | points lost | KL | NLL rise | energy lost, seen | factoring, s |")
    print("|---:|---:|---|---:|---:|---:|---:|---:|", flush=True)
    rows: list[Row] = []
    for candidate in _candidates(arguments, model, examples, task_s):
        rows.append(bench.row(candidate))
        print(rows[-1].cells(), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    _print_differences(rows)


def _arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    options.add_argument(
        "--shares", nargs="+", type=float, default=[0.8, 0.6], help="of a matrix's parameters kept"
    )
    options.add_argument("--tokens", type=int, default=4096, help="of calibration, to factor from")
    options.add_argument("--examples", type=int, default=1200, help="of the confirm split, to score on")
    options.add_argument("--learning-rate", type=float, default=3e-3)
    options.add_argument("--epochs", type=int, default=10)
    options.add_argument("--batch", type=int, default=64, help="tokens of a step")
    options.add_argument("--seed", type=int, default=0, help="of the data splits")
    options.add_argument("--threads", type=int, default=2)
    return options.parse_args()


def _candidates(
    arguments: Namespace, model: RealModel, examples: Sequence[Example], task_s: float
) -> Iterator[Candidate]:
    """One after another; the factors of each are installed until the next one is asked for."""
    shares = arguments.shares
    if "task" in arguments.ways:
        for share in shares:
            ranks = model.space.ranks(lagrangian(model.space, model.prepared.energies, share))
            yield Candidate(way="task", share=share, ranks=ranks, errors=(), seconds=task_s)
    dense = load_prepared(model.prepared.model.folder, CPU)
    if "closed" in arguments.ways:
        yield from _factored_(model, dense, examples, "closed", shares, closed_form)
    if "learned" in arguments.ways:
        training = Training(
            learning_rate=arguments.learning_rate, epochs=arguments.epochs, batch=arguments.batch
        )
        for share in shares:
            yield from _factored_(
                model, dense, examples, "learned", [share], partial(learn, training=training)
            )


def _factored_(
    model: RealModel,
    dense: PreTrainedModel,
    examples: Sequence[Example],
    way: str,
    shares: Sequence[float],
    factoring: Factoring,
) -> Iterator[Candidate]:
    """Installs factors of the largest of the shares; the others are slices of them."""
    ranks: dict[float, list[int]] = {share: [] for share in shares}
    errors: dict[float, list[float]] = {share: [] for share in shares}
    seconds = 0.0
    for matrix, weight, x_TD in _inputs(dense, model.prepared.matrices, examples):
        started = time.perf_counter()
        left_OR, right_RD = factoring(weight, x_TD, _rank(matrix, max(shares)))
        seconds += time.perf_counter() - started
        module = switchable_module(model.switchable.model, matrix.name)
        module.left_RO, module.right_RD = left_OR.T.contiguous().to(module.weight), right_RD.to(module.weight)
        for share in shares:
            rank = _rank(matrix, share)
            sliced = module.left_RO[:rank].T.float(), module.right_RD[:rank].float()
            ranks[share].append(rank)
            errors[share].append(error(weight, *sliced, x_TD))
    for share in shares:
        yield Candidate(
            way=way, share=share, ranks=tuple(ranks[share]), errors=tuple(errors[share]), seconds=seconds
        )


def _rank(matrix: MatrixShape, share: float) -> int:
    return int(share * matrix.dense_params) // (matrix.in_features + matrix.out_features)


def _inputs(
    dense: PreTrainedModel, matrices: Sequence[MatrixShape], examples: Sequence[Example]
) -> Iterator[tuple[MatrixShape, torch.Tensor, torch.Tensor]]:
    """Every matrix, in model order, with its weight and what it reads in the dense model, in float32."""
    for start in range(0, 1 + max(matrix.layer for matrix in matrices), BLOCKS):
        some = [matrix for matrix in matrices if start <= matrix.layer < start + BLOCKS]
        inputs = activations(dense, some, examples)
        for matrix in some:
            weight = weight_OD(dense.get_submodule(matrix.name)).detach().float()  # type: ignore[arg-type]
            yield matrix, weight, torch.cat(inputs.pop(matrix.name)).float()


def _print_differences(rows: Sequence[Row]) -> None:
    """By how much learned projections lose more than the closed form, on the same reviews, with 95 % intervals."""
    errors = {(row.candidate.way, row.candidate.share): row.candidate.errors for row in rows}
    for row in rows:
        if row.beyond_closed:
            share = row.candidate.share
            more = {
                name: "{:+.4f} ({:+.4f} to {:+.4f})".format(*of) for name, of in row.beyond_closed.items()
            }
            pairs = zip(row.candidate.errors, errors["closed", share], strict=True)
            ratio = geometric_mean(learned / closed for learned, closed in pairs)
            print(f"\nlearned at {share:g}, more than the closed form: {more['points']} points, KL {more['kl_nats']}, "
                  f"NLL {more['nll_nats']} nats; energy lost {ratio:.4f} times as much")  # fmt: skip


if __name__ == "__main__":
    main()
