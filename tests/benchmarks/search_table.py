"""Our search against others at equal scored tokens, on the real model: the tables of the README.

Every method spends the same tokens of the search split, those of `--budget` evaluations on all its `--examples`, but
for those of `--budget-of`, and scores in this process, without Ray. For `--shares` the best genome of a size is wanted:
what it loses on the search examples, what on the unseen ones of the confirm split, and by how much less than the
Lagrangian seed there (paired over examples). For `--drops` the smallest model within so many points: what was accepted
on the search examples, then confirmed like a job's finalists, then its drop on the test split. With `--json FILE` every
row is kept in FILE as soon as it is there, and what FILE holds is not run again.

    search_table.py --json rows.json                    the demo's task, all methods, three seeds
    search_table.py --job JOB.yaml --root DIR           a task of your own
    search_table.py --synthetic --budget 30             a task without a model, in seconds

`ranksieve` is our search, of default settings but for what the options change. `lagrangian` is what it begins with, and
EvoPress goes on from there as `evopress-seeded`; `uniform` is the paper's uniform pruning. All use closed-form `task`
factors, but for `paper-output`: the paper's GA on the factors of its own objective. `cma-es` wants
`pip install -e '.[bench]'`.
"""

import json
import math
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import mean
from typing import Any

from baselines.paper_ga import PaperSettings
from baselines.projections import Projection
from in_process import InProcess
from real_model import load, task_parser
from search_methods import (
    NAMES,
    UNIFORM,
    Problem,
    Search,
    projection_of,
    search_of,
)
from synthetic_task import make

from ranksieve.search.evolution.archive import Memo
from ranksieve.search.evolution.finalists import Finalist, drop_finalists
from ranksieve.search.evolution.outcome import Outcome
from ranksieve.search.evolution.schedules import SEED_SHARES, Accepted
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.objectives import MaxDrop, TargetParams
from ranksieve.search.space.prices import Energies
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.seeds import lagrangian
from ranksieve.search.statistics.fallback import fallback
from ranksieve.search.statistics.intervals import DropInterval, mean_interval
from ranksieve.service.pipeline.scoring import TaskScorer
from ranksieve.service.pipeline.trials import TrialScorer
from ranksieve.workers.types.scores import Floats, Scores

Row = dict[str, Any]
KEY = (
    "method",
    "objective",
    "amount",
    "seed",
    "budget",
    "examples",
    "kl_weight",
    "calibration",
)

SETTINGS = (
    "population",
    "offspring",
    "overlap",
    "patience",
    "removal_rate",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Arena:
    """A scored task and what the searches know of it; `full_tokens` are those of a full evaluation."""

    space: SearchSpace
    energies: Energies
    scorer: TaskScorer
    full_tokens: int
    scored: dict[tuple[Genome, str], Scores]

    def scores(self, genome: Genome, split: str) -> Scores:
        """Score a genome on a whole split, once."""
        if (genome, split) not in self.scored:
            (result,) = self.scorer.score_candidates([genome], split)
            if not isinstance(result, Scores):
                raise SystemExit(f"a genome cannot be scored on {split}: {result.reason}")
            self.scored[genome, split] = result
        return self.scored[genome, split]


def main() -> None:
    arguments = _arguments()
    rows: list[Row] = json.loads(arguments.json.read_text()) if _there(arguments.json) else []
    if arguments.stored:
        print_tables(arguments.methods, _stored(arguments, rows))
        return
    known, keys = {_key(row): row for row in rows}, _keys(arguments)
    for key in keys:
        if key in known:
            _require_same(known[key], arguments)
    wanted = [key for key in keys if key not in known]
    for (projection, seed), alike in groupby(wanted, key=_model_of):
        arena = _arena(arguments, projection, seed)
        for key in alike:
            rows.append(_row(arguments, arena, key))
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    print_tables(arguments.methods, [row for row in rows if _key(row) in set(keys)])


def _stored(arguments: Namespace, rows: Sequence[Row]) -> list[Row]:
    """The rows of the objectives asked for: of each method and seed the one of the largest budget."""
    wanted = {("share", share) for share in arguments.shares} | {("drop", drop) for drop in arguments.drops}
    best: dict[tuple[Any, ...], Row] = {}
    for row in sorted(rows, key=lambda row: row["budget"]):
        alike = (row["examples"], row["kl_weight"], row.get("calibration"))
        if (row["objective"], row["amount"]) in wanted and alike == (
            arguments.examples, arguments.kl_weight, arguments.calibration,
        ):  # fmt: skip
            best[row["method"], row["objective"], row["amount"], row["seed"]] = row
    return sorted(best.values(), key=lambda row: row["seed"])


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in KEY)


def _model_of(key: Sequence[Any]) -> tuple[Projection, int]:
    """Method and seed that a row's factors are made for."""
    return projection_of(key[0]), key[3]


def _options(arguments: Namespace, method: str) -> dict[str, Any]:
    """What else a row of a method depends on, as JSON has it."""
    names = [*SETTINGS, "confidence", "synthetic", "layers", "job"]
    if method.startswith("paper"):
        names.append("paper_population")
    found: dict[str, Any] = json.loads(
        json.dumps({name: getattr(arguments, name) for name in names}, default=str)
    )
    return found


def _require_same(row: Row, arguments: Namespace) -> None:
    """That a row which is not run again was made with the same options; old rows do not tell."""
    options = _options(arguments, row["method"])
    made_with = row.get("options", options)
    if other := [name for name, value in options.items() if made_with.get(name) != value]:
        raise SystemExit(
            f"--json: its row of {row['method']} has another {', '.join(other)}; give another file"
        )


def _there(file: Path | None) -> bool:
    return file is not None and file.exists()


def _arguments() -> Namespace:
    options = task_parser(__doc__)
    options.add_argument("--synthetic", action="store_true", help="a task without a model; --layers of it")
    options.add_argument("--layers", type=int, default=30)
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    options.add_argument("--methods", nargs="+", choices=NAMES, default=list(NAMES))
    options.add_argument("--shares", nargs="*", type=float, default=[0.3, 0.25])
    options.add_argument("--drops", nargs="*", type=float, default=[1.0, 5.0], help="points")
    options.add_argument("--confidence", type=float, default=0.8, help="of the drops")
    options.add_argument(
        "--budget", type=int, default=100, help="full evaluations' worth of tokens for a search"
    )
    options.add_argument(
        "--budget-of",
        nargs="*",
        type=_budget_of,
        default=[],
        metavar="METHOD:N",
        help="for methods that are to get more or less",
    )
    options.add_argument("--paper-population", type=int, default=PaperSettings().population)
    options.add_argument("--examples", type=int, default=384, help="search examples of a full evaluation")
    for name in SETTINGS:
        kind, default = type(getattr(SearchSettings(), name)), getattr(SearchSettings(), name)
        options.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default, help="of our search")
    options.add_argument("--kl-weight", type=float, default=0.5)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument(
        "--stored",
        action="store_true",
        help="run nothing: print what --json holds, of each method and seed the row of the largest budget",
    )
    return options.parse_args()


def _budget_of(text: str) -> tuple[str, int]:
    method, budget = text.split(":")
    if method not in NAMES:
        raise ValueError(f"unknown method: {method}")
    return method, int(budget)


def _keys(arguments: Namespace) -> list[tuple[Any, ...]]:
    """All rows asked for, those of one model together."""
    objectives = [("share", share) for share in arguments.shares] + [
        ("drop", drop) for drop in arguments.drops
    ]
    keys = [
        (
            method,
            *objective,
            seed,
            _budget(arguments, method),
            arguments.examples,
            arguments.kl_weight,
            arguments.calibration,
        )
        for seed in arguments.seeds
        for objective in objectives
        for method in arguments.methods
    ]
    return sorted(keys, key=lambda key: (key[3], projection_of(key[0]) != "task"))


def _budget(arguments: Namespace, method: str) -> int:
    return int(dict(arguments.budget_of).get(method, arguments.budget))


def _arena(arguments: Namespace, projection: Projection, seed: int) -> Arena:
    if arguments.synthetic:
        problem = make(seed, arguments.layers)
        task, space, energies, scorer = problem.task, problem.space, problem.energies, problem.scorer
    else:
        model = load(
            arguments.data_dir,
            spec=arguments.job,
            roots=arguments.root,
            method=projection,
            calibration=arguments.calibration,
            kl_weight=arguments.kl_weight,
            seed=seed,
            threads=arguments.threads,
        )
        task, space, energies, scorer = model.task, model.space, model.prepared.energies, model.scorer
    if len(task.splits["search"]) < arguments.examples:
        raise SystemExit(f"--examples: the search split has {len(task.splits['search'])}")
    task_scorer = TaskScorer(InProcess(scorer), space, task, arguments.kl_weight)
    for split in ("search", "confirm", *(["test"] if arguments.drops else [])):
        task_scorer.score_dense(split)
    examples = task.splits["search"][: arguments.examples]
    tokens = sum(len(row.ids) for example in examples for row in example.rows)

    return Arena(
        space=space,
        energies=energies,
        scorer=task_scorer,
        full_tokens=tokens,
        scored={},
    )


def _row(arguments: Namespace, arena: Arena, key: tuple[Any, ...]) -> Row:
    method, kind, amount, seed, budget, examples, *_ = key
    objective = TargetParams(share=amount) if kind == "share" else MaxDrop(points=amount)
    chosen = {name: getattr(arguments, name) for name in SETTINGS}
    settings = SearchSettings(full=examples, seed=seed, **chosen)
    problem = Problem(
        space=arena.space,
        energies=arena.energies,
        objective=objective,
        settings=settings,
        paper=PaperSettings(population=arguments.paper_population),
    )
    started = time.monotonic()
    outcomes = run(
        search_of(method, problem),
        TrialScorer(arena.scorer),
        arguments.confidence,
        budget * arena.full_tokens,
    )
    row = {
        **dict(zip(KEY, key, strict=True)),
        "options": _options(arguments, method),
        "trials": len(outcomes),
        "tokens": (tokens := sum(outcome.tokens for outcome in outcomes)),
        "evaluations": tokens / arena.full_tokens,
        "scoring_s": sum(outcome.seconds for outcome in outcomes),
        "wall_s": time.monotonic() - started,
    }
    full = [outcome for outcome in outcomes if outcome.examples == examples and outcome.failure is None]
    if not full:
        raise SystemExit(
            f"{method} scored nothing on all examples within {budget} evaluations; raise --budget"
        )
    if isinstance(objective, MaxDrop):
        accepted = accepted_in(arena.space, full, objective.points)
        finalists = finalists_of(problem, method, full, accepted)
        return row | {
            "search_kept": accepted[-1].share if accepted else 1.0,
            **_smallest(arena, objective, finalists, arguments.confidence, seed),
        }
    return (
        row | {"trace": trace(outcomes, examples)} | _best(arena, objective, full, arguments.confidence, seed)
    )


def run(search: Search, scorer: TrialScorer, confidence: float, budget: int) -> list[Outcome]:
    """Lets a search spend so many tokens; the last trial may go past them.

    Examples that a genome was scored on before, at an earlier stage, cost nothing again.
    """
    outcomes: list[Outcome] = []
    known: Counter[Genome] = Counter()
    spent = 0

    def take(idle: int) -> list[Any]:
        while search.retire() is not None:
            pass
        return search.ask(idle) if spent < budget else []

    for outcome in scorer.outcomes(take, confidence):
        fresh = replace(outcome, tokens=max(0, outcome.tokens - known[outcome.genome]))
        known[outcome.genome] += fresh.tokens
        outcomes.append(fresh)
        spent += fresh.tokens
        search.tell([outcome])
    return outcomes


def trace(outcomes: Sequence[Outcome], examples: int) -> list[tuple[int, float]]:
    """Tokens so far and the lowest loss on all examples, at every improvement."""
    steps, spent, best = [], 0, math.inf
    for outcome in outcomes:
        spent += outcome.tokens
        if outcome.examples == examples and outcome.fitness < best:
            best = outcome.fitness
            steps.append((spent, best))
    return steps


def spent_until(steps: Sequence[tuple[int, float]], loss: float) -> int | None:
    """Tokens until the trace is down to `loss`; None if it never is."""
    return next((spent for spent, best in steps if best <= loss), None)


def _best(
    arena: Arena, objective: TargetParams, full: Sequence[Outcome], confidence: float, seed: int
) -> Row:
    """What the lowest loss of a search is worth on unseen examples, against the seed of our search."""
    found = min(full, key=lambda outcome: outcome.fitness)
    start = lagrangian(arena.space, arena.energies, objective.share)
    scores, base = (arena.scores(genome, "confirm") for genome in (found.genome, start))
    drop = arena.scorer.drop(scores, "confirm", confidence, seed)
    return {
        "kept": arena.space.kept_share(found.genome),
        "search_loss": found.fitness,
        "search_kl": found.kl_nats,
        "confirm_loss": arena.scorer.loss(scores, "confirm"),
        "confirm_kl": float(scores.kl_nats.mean()),
        "gain": gain(arena.scorer.losses(base, "confirm"), arena.scorer.losses(scores, "confirm")),
        "drop": [drop.estimate, drop.low, drop.high],
    }


def gain(before: Floats, after: Floats) -> list[float]:
    """By how much losses on the same examples fell in the mean, and the interval of that."""
    fallen = before - after
    low, high = mean_interval(fallen) if fallen.any() else (0.0, 0.0)
    return [float(fallen.mean()), low, high]


def finalists_of(
    problem: Problem, method: str, full: Sequence[Outcome], accepted: Sequence[Accepted]
) -> list[Finalist]:
    """As a job makes them of what a search accepted, and of genomes of the family that the method knows.

    Ours scores seeds of all sizes first, and those that fail are not accepted. Others need not have: all of theirs that
    are above the smallest that they accepted are trusted.
    """
    space = problem.space
    seed_of: Callable[[float], Genome] = problem.uniform if method in UNIFORM else problem.seeds
    if accepted and method != "ranksieve":
        seeds = {space.kept_share(genome): genome for genome in map(seed_of, SEED_SHARES)}
        larger = [Accepted(share=share, genome=seeds[share]) for share in seeds if share > accepted[-1].share]
        accepted = [*accepted, *larger]
    return drop_finalists(space, seed_of, accepted, Memo(space, full).front())


def _smallest(
    arena: Arena,
    objective: MaxDrop,
    finalists: Sequence[Finalist],
    confidence: float,
    seed: int,
) -> Row:
    """Confirms finalists as a job does, then tests the smallest that held.

    Of every finalist the row has what it keeps, and its drop and the bound of that where it was confirmed.
    """
    drops: dict[int, DropInterval] = {}

    def least_risk(index: int) -> float:
        scores = arena.scores(finalists[index].genome, "confirm")
        drops[index] = arena.scorer.drop(scores, "confirm", confidence, seed)
        return arena.scorer.risk(scores, "confirm", objective.points, seed)

    held = fallback([one.risk for one in finalists], 1 - confidence, least_risk)
    last = held[-1] if held else 0
    winner = finalists[last].genome
    drops[last] = arena.scorer.drop(arena.scores(winner, "confirm"), "confirm", confidence, seed)
    scores = arena.scores(winner, "test")
    test = arena.scorer.drop(scores, "test", confidence, seed)
    return {
        "kept": arena.space.kept_share(winner) if held else 1.0,
        "held": bool(held),
        "confirm_drop": [drops[last].estimate, drops[last].upper],
        "finalists": [
            [arena.space.kept_share(one.genome), *_confirmed(drops.get(index))]
            for index, one in enumerate(finalists)
        ],
        "test_drop": [test.estimate, test.low, test.high],
        "test_kl": float(scores.kl_nats.mean()),
    }


def _confirmed(drop: DropInterval | None) -> list[float]:
    return [] if drop is None else [drop.estimate, drop.upper]


def accepted_in(space: SearchSpace, outcomes: Sequence[Outcome], points: float) -> list[Accepted]:
    """What was good enough and smaller than all before it, in the order of scoring."""
    accepted: list[Accepted] = []
    for outcome in outcomes:
        share = space.kept_share(outcome.genome)
        if outcome.within(points) and (not accepted or share < accepted[-1].share):
            accepted.append(Accepted(share=share, genome=outcome.genome))
    return accepted


def print_tables(methods: Sequence[str], rows: Sequence[Row]) -> None:
    """One table for every size and one for every drop, means over the seeds."""
    for kind, amount in sorted({(row["objective"], row["amount"]) for row in rows}, reverse=True):
        chosen = [row for row in rows if (row["objective"], row["amount"]) == (kind, amount)]
        by_method = {method: [row for row in chosen if row["method"] == method] for method in methods}
        by_method = {method: group for method, group in by_method.items() if group}
        if kind == "share":
            papers = {row["seed"]: row for row in by_method.get("paper", [])}
            _print_table(f"{amount:g} kept", SHARE_COLUMNS, by_method, partial(_share_cells, papers=papers))
        else:
            _print_table(f"at most {amount:g} points", DROP_COLUMNS, by_method, _drop_cells)


SHARE_COLUMNS = (
    "evaluations' worth",
    "loss, search",
    "KL, search",
    "loss, unseen",
    "of each seed",
    "KL, unseen",
    "below the seed's loss, unseen",
    "drop, points, unseen",
    "tokens to the paper GA's end",
    "times fewer",
)
DROP_COLUMNS = (
    "evaluations' worth",
    "kept, search",
    "kept, confirmed",
    "of each seed",
    "drop, points, test",
    "of each seed",
    "KL, test",
)


def _print_table(
    title: str,
    columns: Sequence[str],
    groups: dict[str, list[Row]],
    cells: Callable[[list[Row]], Iterator[str]],
) -> None:
    print(f"\n{title}\n\n| method | " + " | ".join(columns) + " |")
    print("|---|" + "---:|" * len(columns))
    for method, group in groups.items():
        print(f"| `{method}` | " + " | ".join(cells(group)) + " |", flush=True)


def _share_cells(group: list[Row], papers: dict[int, Row]) -> Iterator[str]:
    yield _evaluations(group)
    for name in ("search_loss", "search_kl", "confirm_loss"):
        yield f"{mean(row[name] for row in group):.4f}"
    yield " / ".join(f"{row['confirm_loss']:.4f}" for row in group)
    yield f"{mean(row['confirm_kl'] for row in group):.4f}"
    yield "{:+.4f} ({:+.4f} to {:+.4f})".format(*pooled([row["gain"] for row in group]))
    yield "{:+.2f} ({:+.2f} to {:+.2f})".format(*pooled([row["drop"] for row in group]))
    yield from _reached(group, papers)


def _reached(group: list[Row], papers: dict[int, Row]) -> Iterator[str]:
    """How many tokens it took to the final loss of the paper's GA, and how many times fewer that is."""
    pairs = []
    for row in group:
        if (paper := papers.get(row["seed"])) is not None:
            final = paper["trace"][-1]
            spent = spent_until(row["trace"], final[1])
            pairs.append((spent, final[0]))
    reached = [(spent, by_paper) for spent, by_paper in pairs if spent is not None]
    if not pairs or len(reached) < len(pairs):
        yield from (("never", "") if pairs else ("", ""))
        return
    yield f"{mean(spent for spent, _ in reached):,.0f}"
    yield f"{mean(by_paper / spent for spent, by_paper in reached):.1f}"


def _drop_cells(group: list[Row]) -> Iterator[str]:
    """What is kept counts as all where no promise held."""
    yield _evaluations(group)
    yield f"{100 * mean(row['search_kept'] for row in group):.1f} %"
    yield f"{100 * mean(row['kept'] if row['held'] else 1.0 for row in group):.1f} %"
    yield " / ".join(f"{100 * row['kept']:.1f} %" if row["held"] else "none held" for row in group)
    yield "{:+.2f} ({:+.2f} to {:+.2f})".format(*pooled([row["test_drop"] for row in group]))
    yield " / ".join(f"{row['test_drop'][0]:+.1f}" for row in group)
    yield f"{mean(row['test_kl'] for row in group):.4f}"


def _evaluations(group: list[Row]) -> str:
    return f"{mean(row['evaluations'] for row in group):.0f}"


def pooled(intervals: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Mean of independent estimates with the interval that their intervals add up to."""
    centre = mean(estimate for estimate, _, _ in intervals)
    below = math.hypot(*(estimate - low for estimate, low, _ in intervals)) / len(intervals)
    above = math.hypot(*(high - estimate for estimate, _, high in intervals)) / len(intervals)
    return centre, centre - below, centre + above


if __name__ == "__main__":
    main()
