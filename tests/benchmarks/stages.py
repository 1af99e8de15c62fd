"""What each stage before the search adds, at some sizes of a job's model.

    stages.py --shares 0.2 0.12 0.08                       the demo's task
    stages.py --job JOB.yaml --root DIR --shares 0.3 0.12  a task of your own

Each stage adds to the one before it: equal ranks, the ranks of the Lagrangian genome, second moments gathered midway,
training. `trained from closed form` leaves the midway moments out. Where a job tunes its model first, `given` and
`tuned` are the two models themselves, and the stages work on the tuned one. All are scored on the confirm split, which
had no part in them. The loss is the job's own: half the KL to the tuned model, half the rise of the right answers'
negative log-likelihood. Seconds are those of all stages so far.
"""

import json
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from in_process import InProcess
from real_model import RealModel, load_plan, made_by, task_parser, trained_plan

from ranksieve.search.space.space import Genome
from ranksieve.search.start.seeds import lagrangian, uniform
from ranksieve.service.pipeline.scoring import TaskScorer
from ranksieve.service.policy import policy_of
from ranksieve.workers.factors.prepared import Tuned
from ranksieve.workers.scoring.tuned import tuned
from ranksieve.workers.types.scores import Scores

Row = dict[str, Any]
COLUMNS = (
    "| {seed} | {stage} | {kept:.3f} | {loss:.4f} | {metric:.4f} | {exact:.4f} | {nll:.4f} | {seconds:.0f} |"
)


def main() -> None:
    options = task_parser(__doc__)
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options.add_argument("--shares", nargs="+", type=float, default=[0.2, 0.12, 0.08])
    options.add_argument("--threads", type=int, default=2)
    arguments = options.parse_args()
    print("| seed | stage | kept | loss, nats | metric | exact | NLL of an answer token, nats | s |")
    print("|---|---|---|---|---|---|---|---|")
    rows: list[Row] = []
    for seed in arguments.seeds:
        for row in _measure(arguments, seed):
            rows.append({"seed": seed, **row})
            print(COLUMNS.format_map(rows[-1]), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def _measure(arguments: Namespace, seed: int) -> Iterator[Row]:
    plan, spec = trained_plan(arguments, seed)
    closed = replace(plan, training=replace(plan.training, epochs=0))
    seconds = 0.0

    def load(of: Any) -> RealModel:
        nonlocal seconds
        started = time.perf_counter()
        model = load_plan(of, spec)
        seconds += time.perf_counter() - started
        return model

    if plan.tuning.epochs:
        yield _row("given", load(replace(closed, midway_share=None)), None, 0.0)
        seconds, started = 0.0, time.perf_counter()
        made: Tuned = made_by(tuned(plan))
        seconds = time.perf_counter() - started
        plan, closed = replace(plan, tuned=made), replace(closed, tuned=made)
    model = load(replace(closed, midway_share=None))
    yield _row("tuned" if plan.tuned else "given", model, None, seconds)
    stages: tuple[tuple[str, RealModel | None, Any, Callable[[RealModel, float], Genome]], ...] = (
        ("equal ranks", model, None, lambda model, share: uniform(model.space, share)),
        ("Lagrangian", model, None, _lagrangian),
        ("midway", None, closed, _lagrangian),
        ("trained", None, plan, _lagrangian),
        ("trained from closed form", None, replace(plan, midway_share=None), _lagrangian),
    )
    for stage, known, of, genome_of in stages:
        model = known or load(of)
        for share in arguments.shares:
            yield _row(stage, model, genome_of(model, share), seconds)


def _lagrangian(model: RealModel, share: float) -> Genome:
    return lagrangian(model.space, model.prepared.energies, share)


def _row(stage: str, model: RealModel, genome: Genome | None, seconds: float) -> Row:
    """The row of a genome, or of the model itself."""
    scorer = TaskScorer(InProcess(model.scorer), model.space, model.task, policy_of(model.spec).kl_weight)
    scores = scorer.score_dense("confirm")
    if genome is not None:
        (scored,) = scorer.score_candidates([genome], "confirm")
        if not isinstance(scored, Scores):
            raise SystemExit(f"cannot be scored: {scored.reason}")
        scores = scored
    return {
        "stage": stage,
        "kept": 1.0 if genome is None else model.space.kept_share(genome),
        "loss": scorer.loss(scores, "confirm"),
        "metric": scorer.metric(scores),
        "exact": float(scores.exact.mean()),
        "nll": float(scores.nll_nats.sum() / scores.answer_tokens.sum()),
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
