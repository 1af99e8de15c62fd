"""The demo's model and task, prepared and loaded in this process: what the benchmarks measure.

Nothing here starts Ray or a server. Model, data and factors come from the cache of a data directory and are
made there where they are missing; a demo that ran in the same directory has made them already.
"""

from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from api.demo import demo_spec
from search.space import SearchSpace, Storage
from service import plans, wiring
from service.settings import Settings
from service.spec import JobSpec
from workers.fisher import Fisher
from workers.lowrank import SwitchableModel
from workers.models import load_prepared, load_tokenizer
from workers.plan import EncodedTask, ModelSource
from workers.preflight import check
from workers.preparation import PreparationPlan, Prepared, Progress, load_factors, prepare
from workers.projections import Method
from workers.scorer import Scorer

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True, slots=True)
class RealModel:
    """The demo's model, its factors, and a scorer on its task."""

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


def load(
    data_dir: Path,
    *,
    spec: JobSpec | None = None,
    roots: Sequence[Path] = (),
    method: Method = "task",
    storage: Storage = "pairs",
    fisher: Fisher = "true",
    refine_epochs: int = 0,
    seed: int = 0,
    dtype: str = "auto",
    threads: int = 2,
) -> RealModel:
    """Fetches, calibrates and factors what the data directory lacks, then loads it.

    Args:
        data_dir: Holds the caches.
        spec: Another job than the demo's; the arguments that follow `roots` replace what it says.
        roots: Folders with its model and data.
        method: Of projection.
        storage: What ranks cost, and up to which the factors go.
        fisher: Whose gradients `task` weighs by.
        refine_epochs: Passes over the calibration examples that train the factors.
        seed: Of the data splits, of calibration and of the search.
        dtype: As in a job file.
        threads: Of torch.
    """
    plan, spec = preparation_plan(
        data_dir,
        spec=spec,
        roots=roots,
        method=method,
        storage=storage,
        fisher=fisher,
        refine_epochs=refine_epochs,
        seed=seed,
        dtype=dtype,
    )
    plan = replace(plan, threads=threads, device="cpu")
    (prepared,) = (item for item in prepare(plan) if not isinstance(item, Progress))
    model = load_prepared(prepared.model.folder, CPU)
    switchable = SwitchableModel(model, prepared.matrices, load_factors(prepared.factors))
    tokenizer = load_tokenizer(ModelSource(kind="path", location=str(prepared.model.folder)))
    return RealModel(
        task=plan.task,
        prepared=prepared,
        space=SearchSpace(prepared.matrices, spec.projection.rank_step, storage),
        switchable=switchable,
        scorer=Scorer(switchable, tokenizer, plan.task, spec.resources.tokens_per_batch),
    )


def preparation_plan(
    data_dir: Path,
    *,
    spec: JobSpec | None = None,
    roots: Sequence[Path] = (),
    method: Method = "task",
    storage: Storage = "pairs",
    fisher: Fisher = "true",
    refine_epochs: int = 0,
    seed: int = 0,
    dtype: str = "auto",
) -> tuple[PreparationPlan, JobSpec]:
    """How a job is calibrated and factored, and the job; arguments as for `load`."""
    settings = Settings(data_dir=data_dir, roots=[root.resolve() for root in roots])
    if spec is None:
        assets = wiring.demo_assets(settings)
        spec = demo_spec(assets.gguf, assets.reviews, seed=seed, method=method, refine_epochs=0)
    projection = {
        "method": method,
        "storage": storage,
        "fisher": fisher,
        "refine_epochs": refine_epochs,
    }
    spec = _changed(spec, projection, seed, dtype)
    allowed = plans.allowed_roots(settings)
    models = plans.cache(settings)
    checked = check(
        plans.model_source(spec, allowed), plans.task_plan(spec), plans.data_plan(spec, allowed), models
    )
    return plans.preparation_plan(spec, checked, settings), spec


def _changed(spec: JobSpec, projection: dict[str, Any], seed: int, dtype: str) -> JobSpec:
    document = spec.canonical()
    document["model"]["dtype"] = dtype
    document["projection"] |= projection
    document["search"]["seed"] = document["task"]["data"]["seed"] = seed
    return JobSpec.model_validate(document)
