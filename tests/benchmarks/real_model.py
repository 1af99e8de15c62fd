"""The demo's model and task, prepared and loaded in this process: what the benchmarks measure.

Nothing here starts Ray or a server. Model, data and factors come from the cache of a data directory and are
made there where they are missing; a demo that ran in the same directory has made them already.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, TypeVar, Unpack

import torch
from baselines.projections import Projection, projecting
from tuning import PLAIN, tune

from ranksieve.api.cli.demo import demo_spec
from ranksieve.api.cli.spec_file import load_spec
from ranksieve.search.space.space import SearchSpace
from ranksieve.service.pipeline import plans
from ranksieve.service.pipeline.checking import settled
from ranksieve.service.policy import policy_of
from ranksieve.service.server.demo_assets import fetch
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.workers.factors.preparation import prepare
from ranksieve.workers.factors.prepared import PreparationPlan, Prepared, with_factors
from ranksieve.workers.model.loading import load_prepared
from ranksieve.workers.model.sources import load_tokenizer
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.preflight import check
from ranksieve.workers.scoring.scorer import Scorer
from ranksieve.workers.types.plan import EncodedTask, ModelSource
from ranksieve.workers.types.progress import Progress

Made = TypeVar("Made")

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class RealModel:
    """The demo's model, its factors, and a scorer on its task."""

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
    made.add_argument("--job", type=lambda file: load_spec(Path(file)), help="job file of another task")
    made.add_argument("--root", type=Path, action="append", default=[], help="folder with its model and data")
    made.add_argument("--calibration", type=int, help="records of that split; the job's own")
    return made


def trained_plan(arguments: Namespace, seed: int) -> tuple[PreparationPlan, JobSpec]:
    """How a job of `task_parser`'s options is calibrated, factored and trained in one pass, and the job."""
    plan, spec = preparation_plan(
        arguments.data_dir,
        spec=arguments.job,
        roots=arguments.root,
        calibration=arguments.calibration,
        train_epochs=1,
        seed=seed,
    )
    return replace(plan, threads=arguments.threads, device="cpu"), spec


class Variant(TypedDict, total=False):
    """Which job is prepared; left out, it is the demo's, with closed-form factors.

    `spec`: another job than the demo's; what follows `roots` replaces what it says. `roots`: folders with its model and
    data. `dtype`, `seed`: as in a job file. `method`: see `baselines.projections`; for `load` alone. `gram_examples`
    (None: the default), `midway_share`, `kl_weight`, `train_epochs`: as in a `Policy`. `calibration`: records of that
    split (None: the job's own).
    """

    spec: JobSpec | None
    roots: Sequence[Path]
    method: Projection
    gram_examples: int | None
    calibration: int | None
    midway_share: float | None
    seed: int
    kl_weight: float
    train_epochs: int
    dtype: str


def load(data_dir: Path, *, threads: int = 2, **variant: Unpack[Variant]) -> RealModel:
    """Fetches, calibrates and factors what the data directory lacks, then loads it, with so many torch threads."""
    plan, spec = preparation_plan(data_dir, **variant)
    plan = replace(plan, threads=threads, device="cpu")
    method = variant.get("method", "task")
    if method != "task":  # a cache of their own, since keys know one projection
        plan = replace(plan, midway_share=None, cache_dir=plan.cache_dir / method)
    with projecting(method):
        return load_plan(plan, spec)


def load_plan(plan: PreparationPlan, spec: JobSpec) -> RealModel:
    """Prepares what the plan's cache lacks, then loads it."""
    prepared: Prepared = made_by(prepare(plan))
    model = load_prepared(prepared.model.folder, CPU, matrices=prepared.matrices)
    switchable = with_factors(model, prepared.matrices, prepared.factors)
    tokenizer = load_tokenizer(ModelSource(kind="path", location=str(prepared.model.folder)))
    return RealModel(
        spec=spec,
        task=plan.task,
        prepared=prepared,
        space=prepared.space(policy_of(spec).rank_step),
        switchable=switchable,
        scorer=Scorer(switchable, tokenizer, plan.task, spec.resources.batch_tokens),
    )


def made_by(phase: Iterator[Progress | Made]) -> Made:
    """What a phase yields last."""
    (made,) = (item for item in phase if not isinstance(item, Progress))
    return made


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
    return plans.preparation_plan(spec, checked, settings, spec.model.dtype), spec


def _changed(spec: JobSpec, variant: Variant) -> JobSpec:
    """The job that is asked for; its constants are in force from now on."""
    document = spec.canonical()
    document["seed"] = variant.get("seed", 0)
    document["model"]["dtype"] = variant.get("dtype", "auto")
    if calibration := variant.get("calibration"):
        document["task"]["data"]["sizes"]["calibration"] = calibration
    policy = {
        "midway_share": variant.get("midway_share"),
        "kl_weight": variant.get("kl_weight", PLAIN.kl_weight),
        "gram_examples": variant.get("gram_examples") or PLAIN.gram_examples,
        "train_epochs": variant.get("train_epochs", PLAIN.train_epochs),
    }
    return JobSpec.model_validate(tune(document | {"policy": policy}))
