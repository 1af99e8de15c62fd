"""How small a model the confirm split lets through, by how the risk is spread over a job's finalists.

    confirmation.py --json rows.json                    the demo's task; what FILE holds is not scored again
    confirmation.py --points 1 --confidence 0.95        another promise

Searches the smallest model within `--points` as a job does, and scores all its finalists on `--unseen` examples. Of
these, confirm splits of each size are drawn `DRAWS` times, each from another half, and the finalists tested on them at
limits from `--limits`: with all of the risk on the first (fixed sequence testing) and as `finalists` spreads it.
Printed are the share that is kept, 100 % where none holds, in brackets how often the one that was taken loses more than
the limit on the half that the split was not drawn from, and how many finalists had to be scored. At a tighter limit
than `--points` the list is that of the job without those that the search would not have accepted.
"""

import json
from argparse import Namespace
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
from in_process import InProcess
from numpy.typing import NDArray
from real_model import RealModel, load, parser, preparation_plan
from search_methods import Problem, search_of
from search_table import accepted_in, finalists_of, run

from ranksieve.search.evolution.finalists import risks
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.objectives import MaxDrop
from ranksieve.search.statistics.fallback import fallback
from ranksieve.search.statistics.intervals import RESAMPLES
from ranksieve.search.statistics.pvalues import risk_of_drop
from ranksieve.service.pipeline.scoring import TaskScorer
from ranksieve.service.spec import JobSpec
from ranksieve.workers.types.scores import Scores

SPLITS = (200, 512, 1200)
DRAWS = 600
ACCEPTED_AT = 0.2
"""Most risk at which the search split lets one pass."""

Floats = NDArray[np.float64]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--points", type=float, default=5.0)
    options.add_argument("--confidence", type=float, default=0.8)
    options.add_argument("--limits", nargs="+", type=float, default=[5.0, 2.0, 1.0])
    options.add_argument("--budget", type=int, default=40, help="evaluations' worth of tokens for the search")
    options.add_argument("--search", type=int, default=256, help="search examples")
    options.add_argument("--unseen", type=int, default=3000)
    options.add_argument("--threads", type=int, default=2)
    arguments = options.parse_args()
    if arguments.json and arguments.json.exists():
        found = json.loads(arguments.json.read_text())
    else:
        found = _found(arguments)
        if arguments.json:
            arguments.json.write_text(json.dumps(found) + "\n")
    _print(found, arguments.limits)


def _found(arguments: Namespace) -> dict[str, Any]:
    """The finalists of a search, largest first, and which of all examples of both splits each gets right."""
    model = _model(arguments)
    space = model.space
    scorer = TaskScorer(InProcess(model.scorer), space, model.task, kl_weight=0.5)
    dense = {split: scorer.score_dense(split).quality for split in ("search", "test")}
    objective = MaxDrop(points=arguments.points)

    settings = SearchSettings(full=arguments.search, seed=arguments.seed)
    problem = Problem(space=space, energies=model.prepared.energies, objective=objective, settings=settings)
    tokens = sum(len(row.ids) for example in model.task.splits["search"] for row in example.rows)
    outcomes = run(search_of("ranksieve", problem), scorer, arguments.confidence, arguments.budget * tokens)
    full = [one for one in outcomes if one.examples == arguments.search and one.failure is None]
    accepted = accepted_in(space, full, objective.points)
    rows = []
    for finalist in finalists_of(problem, "ranksieve", full, accepted):
        row: dict[str, Any] = {
            "kept": space.kept_share(finalist.genome),
            "accepted": any(one.genome == finalist.genome for one in accepted),
        }
        for split, qualities in dense.items():
            (scores,) = scorer.score_candidates([finalist.genome], split)
            assert isinstance(scores, Scores), scores
            row[split] = (100 * (qualities - scores.quality)).tolist()
        rows.append(row)
        print(f"kept {row['kept']:.1%}: drop {np.mean(row['search']):.1f} points on the search split, "
              f"{np.mean(row['test']):.1f} unseen", flush=True)  # fmt: skip
    return {"points": arguments.points, "rows": rows}


def _model(arguments: Namespace) -> RealModel:
    """The demo's, with as many unseen examples as its reviews allow in place of its test split."""
    _, spec = preparation_plan(arguments.data_dir, seed=arguments.seed)
    document = spec.canonical()
    sizes = {"calibration": 512, "search": arguments.search, "confirm": 64, "test": arguments.unseen}
    document["task"]["data"]["sizes"] = sizes
    return load(
        arguments.data_dir,
        spec=JobSpec.model_validate(document),
        seed=arguments.seed,
        threads=arguments.threads,
    )


def _print(found: dict[str, Any], limits: Sequence[float]) -> None:
    """A row for every limit, confidence and size of the confirm split."""
    print("\n| limit, points | confidence | confirm split | all on the first | as it is spread |")
    print("|---:|---:|---:|---:|---:|")
    for limit in limits:
        rows = [
            row
            for row in found["rows"]
            if not row["accepted"] or _risk_at(np.array(row["search"]), limit) <= ACCEPTED_AT
        ]
        accepted = [row["accepted"] for row in rows]
        chosen, safe = sum(accepted), accepted.index(True) if any(accepted) else 1
        shares = [row["kept"] for row in rows if row["accepted"]]
        spread = risks(safe, shares, [row["kept"] for row in rows[safe + chosen :]])
        fixed = [1.0] + [0.0] * (len(rows) - 1)
        for risk in (0.2, 0.05):
            for size in SPLITS:
                cells = [_cell(rows, limit, risk, size, shares) for shares in (fixed, spread)]
                print(f"| {limit:g} | {1 - risk:.0%} | {size} | " + " | ".join(cells) + " |")


def _cell(rows: list[dict[str, Any]], limit: float, risk: float, size: int, shares: Sequence[float]) -> str:
    """Kept and wrong, over draws of the confirm split."""
    rng = np.random.default_rng(0)
    drops_RE = np.array([row["test"] for row in rows])
    kept, scored, wrong = [], [], 0
    for _ in range(DRAWS):
        drawn, others = np.split(rng.permutation(drops_RE.shape[1]), [max(size, drops_RE.shape[1] // 2)])
        lost, gained = _flipped(drops_RE[:, drawn[:size]])
        asked: set[int] = set()

        def least_risk(index: int) -> float:
            asked.add(index)  # noqa: B023
            return _least_risk(lost[index], gained[index], size, limit)  # noqa: B023

        held = fallback(shares, risk, least_risk)
        scored.append(len(asked))
        kept.append(rows[held[-1]]["kept"] if held else 1.0)
        wrong += bool(held) and drops_RE[held[-1], others].mean() > limit
    return f"{np.mean(kept):.1%} ({wrong / DRAWS:.0%}), {np.mean(scored):.1f}"


def _flipped(drops_RE: Floats) -> tuple[list[int], list[int]]:
    """Of every finalist, how many answers it gets wrong that were right, and the other way round."""
    lost, gained = (np.count_nonzero(sign * drops_RE > 0, axis=1).tolist() for sign in (1, -1))
    return lost, gained


@cache
def _least_risk(lost: int, gained: int, size: int, limit: float) -> float:
    """As a job tests it, of so many answers that got wrong and right."""
    dense, candidate = np.ones(size), np.ones(size)
    dense[:gained], candidate[gained : gained + lost] = 0, 0
    return risk_of_drop(dense, candidate, limit, seed=0, draws=RESAMPLES)


def _risk_at(drops_E: Floats, limit: float) -> float:
    """The least risk at which the search lets these drops pass, in the normal approximation."""
    error = float(drops_E.std(ddof=1)) / len(drops_E) ** 0.5
    return NormalDist().cdf((float(drops_E.mean()) - limit) / (error + 1e-9))


if __name__ == "__main__":
    main()
