"""The demo's model and task, prepared and loaded in this process: what the benchmarks measure.

Nothing here starts Ray or a server. Model, data and factors come from the cache of a data directory and are
made there where they are missing; a demo that ran in the same directory has made them already.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from tuning import PLAIN, tune

from ranksieve.api.cli.demo import demo_spec
from ranksieve.search.space.objectives import MaxDrop
from ranksieve.search.space.prices import Energies
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start import reweighing
from ranksieve.search.start.reweighing import weighted
from ranksieve.search.start.seeds import lagrangian
from ranksieve.service.pipeline import plans
from ranksieve.service.pipeline.confirmation import DEFAULT_CONFIDENCE
from ranksieve.service.pipeline.rounds.descent import NextSize, Round, descent, staircase, until_little
from ranksieve.service.pipeline.rounds.records import (
    DESCENT_EXAMPLES,
    RoundRecords,
    records_of,
    smallest_share,
)
from ranksieve.service.pipeline.rounds.reweighing import NextShare, Reweighing, Weighing, on_stairs
from ranksieve.service.pipeline.scoring import TaskScorer
from ranksieve.service.pipeline.steps import settled
from ranksieve.service.policy import (
    DESCENT_ROUNDS,
    ROUND_EXAMPLES,
    STAIRCASE_ROUNDS,
    policy_of,
    propagated_shares,
    usual_rounds,
)
from ranksieve.service.server.demo_assets import fetch
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.workers.factors.closed_form import gathered_midway
from ranksieve.workers.factors.decomposition import Method
from ranksieve.workers.factors.preparation import prepare
from ranksieve.workers.factors.prepared import PreparationPlan, Prepared, with_factors
from ranksieve.workers.model.attention import suit_gradients
from ranksieve.workers.model.loading import load_prepared
from ranksieve.workers.model.sources import load_tokenizer
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.preflight import check
from ranksieve.workers.scoring.scorer import Scorer
from ranksieve.workers.types.plan import EncodedTask, ModelSource
from ranksieve.workers.types.progress import Progress

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class RealModel:
    """The demo's model, its factors, and a scorer on its task."""

    plan: PreparationPlan
    spec: JobSpec
    task: EncodedTask
    prepared: Prepared
    space: SearchSpace
    switchable: SwitchableModel
    scorer: Scorer

    @property
    def dtype(self) -> str:
        return self.prepared.model.dtype


def parser(description: str | None) -> ArgumentParser:
    """A command line with the options that every benchmark has."""
    made = ArgumentParser(description=description)
    made.add_argument("--data-dir", type=Path, default=Path(".ranksieve"), help="where the caches are")
    made.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    return made


def task_parser(description: str | None) -> ArgumentParser:
    """The same, and the options of benchmarks that take other tasks than the demo's, too."""
    made = parser(description)
    made.add_argument("--job", type=Path, help="job file of another task")
    made.add_argument("--root", type=Path, action="append", default=[], help="folder with its model and data")
    made.add_argument("--calibration", type=int, help="records of that split; the job's own")
    made.add_argument(
        "--propagated",
        nargs="*",
        type=float,
        default=[],
        help="sizes of models in which errors are propagated, for `task`",
    )
    return made


def propagated_in(arguments: Namespace, method: str) -> str | None:
    """As rows name it; those where errors are not propagated have none."""
    return " ".join(map(str, arguments.propagated)) or None if method == "task" else None


class Variant(TypedDict, total=False):
    """Which job is prepared; left out, it is the demo's, with closed-form factors.

    `spec`: another job than the demo's; what follows `roots` replaces what it says. `roots`: folders with its model and
    data. `objective`, `dtype`, `seed`: as in a job file. `method`, `gram_examples` (None: the default), `midway_share`,
    `propagated_shares` (None: by the objective), `kl_weight`: as in a `Policy`. `calibration`: records of that split
    (None: the job's own).
    """

    spec: JobSpec | None
    roots: Sequence[Path]
    objective: dict[str, Any] | None
    method: Method
    gram_examples: int | None
    calibration: int | None
    midway_share: float | None
    propagated_shares: Sequence[float] | None
    seed: int
    kl_weight: float
    dtype: str


def load(data_dir: Path, *, threads: int = 2, **variant: Unpack[Variant]) -> RealModel:
    """Fetches, calibrates and factors what the data directory lacks, then loads it, with so many torch threads."""
    plan, spec = preparation_plan(data_dir, **variant)
    plan = replace(plan, threads=threads, device="cpu")
    (prepared,) = (item for item in prepare(plan) if not isinstance(item, Progress))
    return _loaded(plan, spec, prepared)


def gathered_again(model: RealModel, genome: Genome) -> RealModel:
    """The same with factors of second moments that are gathered midway to one of its genomes."""

    def steps() -> Iterator[Progress | Prepared]:
        yield (yield from gathered_midway(model.plan, model.prepared, model.space.ranks(genome)))

    (prepared,) = (item for item in steps() if not isinstance(item, Progress))
    return _loaded(model.plan, model.spec, prepared)


def _loaded(plan: PreparationPlan, spec: JobSpec, prepared: Prepared) -> RealModel:
    model = suit_gradients(load_prepared(prepared.model.folder, CPU, matrices=prepared.matrices))
    switchable = with_factors(model, prepared.matrices, prepared.factors)
    tokenizer = load_tokenizer(ModelSource(kind="path", location=str(prepared.model.folder)))
    return RealModel(
        plan=plan,
        spec=spec,
        task=plan.task,
        prepared=prepared,
        space=SearchSpace(prepared.matrices, policy_of(spec).rank_step),
        switchable=switchable,
        scorer=Scorer(switchable, tokenizer, plan.task, spec.resources.batch_tokens),
    )


def reweighed(model: RealModel, scorer: TaskScorer, share: float) -> Energies:
    """The energies after as many rounds at a size as a job has by default."""
    return _weighted(model, weighings(model, scorer, lambda _: share))


def reweighed_for(
    model: RealModel, scorer: TaskScorer, objective: MaxDrop, confidence: float
) -> tuple[Energies, float | None]:
    """The energies after as many rounds, where the smallest model is looked for, and the size they have led to."""
    genome_of = partial(lagrangian, model.space, model.prepared.energies)
    next_share = on_stairs(objective, lambda: smallest_share(genome_of, objective, scorer, confidence))
    rounds = weighings(model, scorer, next_share, confidence=confidence)
    tell = _records(model, confidence).confidence is not None
    return _weighted(model, rounds), next_share(rounds) if tell else None


def _weighted(model: RealModel, rounds: Sequence[Weighing]) -> Energies:
    return weighted(model.prepared.energies, reweighing.settled([np.array(one.weights) for one in rounds]))


def weighings(
    model: RealModel,
    scorer: TaskScorer,
    next_share: NextShare,
    rounds: int | None = None,
    confidence: float = DEFAULT_CONFIDENCE,
) -> list[Weighing]:
    """So many rounds of reweighing; as many as a job has by default."""
    records = _records(model, confidence)
    reweighing = Reweighing(scorer, model.prepared.energies, records)
    return list(islice(reweighing.rounds(next_share), _rounds(model) if rounds is None else rounds))


def descents(
    model: RealModel,
    scorer: TaskScorer,
    energies: Energies,
    next_size: NextSize,
    most: int = DESCENT_ROUNDS,
    confidence: float = DEFAULT_CONFIDENCE,
    earlier: Sequence[Round] = (),
) -> Iterator[Round]:
    """Rounds of descent from where earlier ones have led, or from the Lagrangian genome."""
    records = _records(model, confidence)
    return islice(descent(energies, next_size, records, scorer, earlier), most)


def descents_for(
    model: RealModel,
    scorer: TaskScorer,
    energies: Energies,
    begin: float | None,
    objective: MaxDrop,
    confidence: float,
) -> list[Round]:
    """As many as a job has by default where the smallest model is looked for."""
    next_size = staircase(begin, objective, scorer, confidence, STAIRCASE_ROUNDS)
    return list(descents(model, scorer, energies, next_size, STAIRCASE_ROUNDS, confidence))


def descended(model: RealModel, scorer: TaskScorer, energies: Energies, share: float) -> Genome:
    """The genome after as many as a job has by default, at one size."""
    return list(descents(model, scorer, energies, until_little(share)))[-1].genome


def _records(model: RealModel, confidence: float = DEFAULT_CONFIDENCE) -> RoundRecords:
    """As a job has them, of another confidence."""
    records = records_of(model.spec, len(model.task.splits["calibration"]))
    return records if records.confidence is None else replace(records, confidence=confidence)


def tokens_of_reweighing(model: RealModel) -> int:
    """As `_tokens_of_rounds`, of as many as a job has by default."""
    return _tokens_of_rounds(model, ROUND_EXAMPLES, _rounds(model))


def tokens_of_descent(model: RealModel, rounds: int) -> int:
    """As `_tokens_of_rounds`."""
    return _tokens_of_rounds(model, DESCENT_EXAMPLES, rounds)


def _tokens_of_rounds(model: RealModel, size: int, rounds: int) -> int:
    """Forwards, and backwards, which counts as two; the dense model runs, too: for a `choice` over a record once."""
    calibration = model.task.splits["calibration"]
    records = _records(model)
    ran = [i for number in range(rounds) for i in records.part(size, number)]
    dense = sorted(set(ran)) if model.task.kind == "choice" else ran
    return sum(len(row.ids) for i in (*ran, *ran, *ran, *dense) for row in calibration[i].rows)


def _rounds(model: RealModel) -> int:
    return usual_rounds(len(model.task.splits["calibration"]))


def preparation_plan(data_dir: Path, **variant: Unpack[Variant]) -> tuple[PreparationPlan, JobSpec]:
    """How a job is calibrated and factored, and the job."""
    settings = Settings(data_dir=data_dir, roots=[*variant.get("roots", ()), data_dir])
    spec = variant.get("spec")
    if spec is None:
        assets = fetch(settings.cache_dir)
        spec = demo_spec(assets.gguf, assets.reviews, seed=variant.get("seed", 0), effort="normal")
    spec = _changed(spec, variant)
    allowed = plans.allowed_roots(settings)
    models = plans.cache(settings)
    checked = check(
        plans.model_source(spec, allowed), plans.task_plan(spec), plans.data_plan(spec, allowed), models
    )
    spec = settled(spec, checked)
    plan = plans.preparation_plan(spec, checked, settings, spec.model.dtype)
    return replace(plan, propagated_shares=propagated_shares(spec)), spec


def _changed(spec: JobSpec, variant: Variant) -> JobSpec:
    """The job that is asked for; its constants are in force from now on."""
    document = spec.canonical()
    document |= {
        "seed": variant.get("seed", 0),
        "objective": variant.get("objective") or document["objective"],
    }
    document["model"]["dtype"] = variant.get("dtype", "auto")
    if calibration := variant.get("calibration"):
        document["task"]["data"]["sizes"]["calibration"] = calibration
    shares = variant.get("propagated_shares", ())
    policy = {
        "method": variant.get("method", "task"),
        "midway_share": variant.get("midway_share"),
        "propagated_shares": None if shares is None else tuple(shares),
        "kl_weight": variant.get("kl_weight", PLAIN.kl_weight),
        "gram_examples": variant.get("gram_examples") or PLAIN.gram_examples,
    }
    return JobSpec.model_validate(tune(document | {"policy": policy}))
