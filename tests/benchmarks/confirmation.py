"""How small a model the confirm split lets through, by its size and by how the risk is spread over the finalists.

    confirmation.py --json rows.json                    the demo's task; what FILE holds is not scored again
    confirmation.py --points 5 --confidence 0.8         another promise

Tunes, trains and searches the smallest model within `--points` as a job does, and scores its finalists on `--unseen`
records, down to one that loses four times as much. Of these records, confirm splits of each size are drawn `DRAWS`
times, and the finalists tested on them, with the risk spread over 1 to 4 starts (`search.evolution.finalists`). Printed
are the mean share that is kept, 100 % where none holds, in brackets how often none does, and how often the one that was
taken loses more than the limit on the records that were not drawn.
"""

import json
from argparse import Namespace
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from in_process import InProcess
from real_model import RealModel, load_plan, made_by, parser, preparation_plan

from ranksieve.search.evolution.evolution import Evolution
from ranksieve.search.evolution.outcome import Trial
from ranksieve.search.space.objectives import MaxDrop
from ranksieve.search.statistics.fallback import fallback
from ranksieve.search.statistics.intervals import RESAMPLES
from ranksieve.search.statistics.pvalues import risk_of_drop
from ranksieve.service.pipeline.scoring import TaskScorer
from ranksieve.service.pipeline.trials import TrialScorer
from ranksieve.service.policy import EFFORTS
from ranksieve.service.spec import JobSpec
from ranksieve.workers.factors.prepared import Tuned
from ranksieve.workers.scoring.tuned import tuned
from ranksieve.workers.types.scores import Scores

SPLITS = (600, 1200, 2400)
STARTS = (1, 2, 3, 4)
DRAWS = 300
SEARCH = EFFORTS["normal"].search


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--points", type=float, default=1.0)
    options.add_argument("--confidence", type=float, default=0.95)
    options.add_argument("--unseen", type=int, default=4800)
    options.add_argument("--threads", type=int, default=2)
    arguments = options.parse_args()
    if arguments.json and arguments.json.exists():
        rows = json.loads(arguments.json.read_text())
    else:
        rows = _scored(arguments)
        if arguments.json:
            arguments.json.write_text(json.dumps(rows) + "\n")
    _print(rows, arguments)


def _scored(arguments: Namespace) -> list[dict[str, Any]]:
    """The finalists of a search, largest first, and the drop of each on every unseen record, in points."""
    model = _model(arguments)
    # The bound of a drop foresees as many records to confirm as the largest split has.
    unseen = model.task.splits["test"]
    task = replace(model.task, splits={**model.task.splits, "confirm": unseen[: max(SPLITS)]})
    scorer = TaskScorer(InProcess(model.scorer), model.space, task, kl_weight=0.5)
    scorer.score_dense("search")
    evolution = Evolution(
        model.space,
        model.prepared.energies,
        MaxDrop(points=arguments.points),
        replace(SEARCH, seed=arguments.seed, full=len(task.splits["search"])),
    )

    def ask(idle: int) -> list[Trial]:
        while evolution.retire() is not None:
            pass
        return [] if evolution.finished else evolution.ask(idle)

    for outcome in TrialScorer(scorer).outcomes(ask, arguments.confidence):
        evolution.tell([outcome])
    while evolution.retire() is not None:
        pass
    scorer.score_dense("test")
    dense_E = scorer.dense["test"].quality
    rows = []
    for finalist in evolution.finalists():
        (scores,) = scorer.score_candidates([finalist.genome], "test")
        assert isinstance(scores, Scores), scores
        drops_E = 100 * (dense_E - scores.quality)
        rows.append({"kept": model.space.kept_share(finalist.genome), "drops": drops_E.tolist()})
        print(f"kept {rows[-1]['kept']:.1%}: drop {drops_E.mean():+.2f} points", flush=True)
        if drops_E.mean() > 4 * arguments.points:  # no smaller one will hold
            break
    return rows


def _model(arguments: Namespace) -> RealModel:
    """The demo's, tuned and trained, with all unseen records as its test split."""
    objective = {"kind": "max_drop", "points": arguments.points, "confidence": arguments.confidence}
    sizes = {"calibration": 2048, "search": 384, "confirm": 64, "test": arguments.unseen}
    _, spec = preparation_plan(arguments.data_dir, seed=arguments.seed)
    document = spec.canonical() | {"objective": objective}
    document["task"]["data"]["sizes"] = sizes
    spec = JobSpec.model_validate(document)
    plan, spec = preparation_plan(arguments.data_dir, spec=spec, seed=arguments.seed, train_epochs=1)
    plan = replace(plan, threads=arguments.threads, device="cpu")
    made: Tuned = made_by(tuned(plan))
    return load_plan(replace(plan, tuned=made), spec)


def _print(rows: list[dict[str, Any]], arguments: Namespace) -> None:
    """A row for every size of the confirm split."""
    print(f"\n| confirm split | {' | '.join(f'{starts} starts' for starts in STARTS)} |")
    print("|---:" * (1 + len(STARTS)) + "|")
    for size in SPLITS:
        cells = [_cell(rows, arguments, size, starts) for starts in STARTS]
        print(f"| {size} | " + " | ".join(cells) + " |")


def _cell(rows: list[dict[str, Any]], arguments: Namespace, size: int, starts: int) -> str:
    rng = np.random.default_rng(0)
    drops_RE = np.array([row["drops"] for row in rows])
    first = {round(len(rows) * part / (2 * starts)) for part in range(starts)}
    parts = [(index in first) / len(first) for index in range(len(rows))]
    kept, broken, none = [], 0, 0
    for _ in range(DRAWS):
        drawn, others = np.split(rng.permutation(drops_RE.shape[1]), [size])
        lost, gained = ((sign * drops_RE[:, drawn] > 0).sum(axis=1).tolist() for sign in (1, -1))

        def least_risk(index: int) -> float:
            return _least_risk(lost[index], gained[index], size, arguments.points)  # noqa: B023

        held = fallback(parts, 1 - arguments.confidence, least_risk)
        kept.append(rows[held[-1]]["kept"] if held else 1.0)
        none += not held
        broken += bool(held) and drops_RE[held[-1], others].mean() > arguments.points
    return f"{np.mean(kept):.1%} ({none / DRAWS:.0%} none, {broken / DRAWS:.1%} broken)"


@cache
def _least_risk(lost: int, gained: int, size: int, points: float) -> float:
    """As a job tests it, of so many answers that got wrong and right."""
    dense, candidate = np.ones(size), np.ones(size)
    dense[:gained], candidate[gained : gained + lost] = 0, 0
    return risk_of_drop(dense, candidate, points, seed=0, draws=RESAMPLES)


if __name__ == "__main__":
    main()
