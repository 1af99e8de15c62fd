"""Writer of the winner as a folder that transformers loads by itself.

A low-rank matrix becomes a layer of `workers.model.layers`. A dense matrix stays unchanged. A matrix of rank 0 keeps at
most its bias, and so does a dead one (see `model.sublayers`), whatever its rank. The model class in the folder is a
small subclass of the architecture's own (`modeling_ranksieve.py`), so that generation, caches and tied weights work as
before; so are the base model and the other heads.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.workers.cache.manifest import flush_files
from ranksieve.workers.export import classes
from ranksieve.workers.export.card import TEMPLATES, model_card
from ranksieve.workers.export.heads import heads_of
from ranksieve.workers.export.quantized import write_rounded
from ranksieve.workers.export.reader import OWN_TYPE
from ranksieve.workers.factors.prepared import load_factors
from ranksieve.workers.model import experts as experts_module
from ranksieve.workers.model import layers
from ranksieve.workers.model.checks import WEIGHT_FILES
from ranksieve.workers.model.experts import Experts
from ranksieve.workers.model.layers import LowRankLinear, replace_linears
from ranksieve.workers.model.loading import load_prepared, weight_bytes
from ranksieve.workers.model.matrices import linear_params
from ranksieve.workers.model.sublayers import find_sublayers, live_ranks
from ranksieve.workers.types.progress import Progress

MODULE = "modeling_ranksieve"

LEAST_TRANSFORMERS = "5.24"
"""Required by exports: earlier versions read the configuration differently and would answer wrongly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportPlan:
    """Model to export and where; `provenance` fills the card and `ranksieve.json`.

    `scratch`: the folder while it is written, in the same file system and not listed. The sizes and ranks in the
    provenance's summary of the best model are replaced by those of the files. `bits`: of stored weights; None keeps
    their dtype.
    """

    model_folder: Path
    factors_folder: Path
    matrices: tuple[MatrixShape, ...]
    ranks: tuple[int, ...]
    folder: Path
    scratch: Path
    provenance: Mapping[str, Any]
    bits: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """Exported folder and its contents.

    `dead`: name of each dead matrix → numbers that its rank would have cost.
    """

    folder: Path
    file_bytes: int
    total_params: int
    block_params: int
    dead: Mapping[str, int] = field(default_factory=dict)


def export(plan: ExportPlan) -> Iterator[Progress | Exported]:
    """Yield progress and, last, the exported model.

    The folder appears whole or not at all.
    """
    yield Progress(phase="export", done=0, total=1)
    model = load_prepared(plan.model_folder, torch.device("cpu"), matrices=plan.matrices)
    dense_params = linear_params(model)
    live = live_ranks(plan.matrices, plan.ranks, find_sublayers(model, plan.matrices))
    dead = {
        matrix.name: matrix.price(rank)
        for matrix, rank, kept in zip(plan.matrices, plan.ranks, live, strict=True)
        if kept != rank
    }
    plan = replace(plan, ranks=live)
    _install(model, plan, load_factors(plan.factors_folder))
    sizes = {"block_params": dense_params - _saved_params(plan), "total_params": _stored_numbers(model)}
    shutil.rmtree(plan.scratch, ignore_errors=True)
    try:
        _write(model, plan, _counted(plan, sizes), plan.scratch)
        flush_files(plan.scratch)
        shutil.rmtree(plan.folder, ignore_errors=True)
        plan.scratch.rename(plan.folder)
    except BaseException:
        shutil.rmtree(plan.scratch, ignore_errors=True)
        raise
    yield Progress(phase="export", done=1, total=1)
    yield Exported(folder=plan.folder, file_bytes=weight_bytes(plan.folder), dead=dead, **sizes)


def _install(
    model: PreTrainedModel, plan: ExportPlan, factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
) -> None:
    ranks = _replaced(plan)
    replace_linears(model, ranks)
    for name, rank in ranks.items():
        if rank > 0:
            left_RO, right_RD = factors[name]
            module = model.get_submodule(name)
            assert isinstance(module, LowRankLinear)
            module.down.weight.data = right_RD[:rank].clone()
            module.up.weight.data = left_RO[:rank].T.contiguous()


def _replaced(plan: ExportPlan) -> dict[str, int]:
    """Return name → rank of every matrix that does not stay dense."""
    return {
        matrix.name: rank for matrix, rank in zip(plan.matrices, plan.ranks, strict=True) if rank != DENSE
    }


def _saved_params(plan: ExportPlan) -> int:
    pairs = zip(plan.matrices, plan.ranks, strict=True)
    return sum(matrix.dense_params - matrix.price(rank) for matrix, rank in pairs)


def _stored_numbers(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _counted(plan: ExportPlan, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Return the provenance with the sizes and ranks of the files in its summary."""
    summary = plan.provenance["summary"]
    ranks = dict(zip([matrix.name for matrix in plan.matrices], plan.ranks, strict=True))
    best = {
        **summary["best"],
        **sizes,
        "kept_block_params": sizes["block_params"] / summary["dense"]["block_params"],
    }
    return {**plan.provenance, "summary": {**summary, "ranks": ranks, "best": best}}


def _write(model: PreTrainedModel, plan: ExportPlan, provenance: Mapping[str, Any], folder: Path) -> None:
    base_class = type(model).__name__
    experts = [name for name, module in model.named_modules() if isinstance(module, Experts)]
    shutil.copytree(
        plan.model_folder,
        folder,
        ignore=shutil.ignore_patterns("*.safetensors*", "config.json", "manifest.json"),
    )
    model.config.ranksieve = {
        "base_class": base_class,
        "ranks": _replaced(plan),
        "experts": experts,
    }
    model.save_pretrained(folder, save_original_format=False)  # only the base class knows that format
    model_type = f"{OWN_TYPE}{model.config.model_type}"
    base_config, heads = type(model.config).__name__, heads_of(model, list(_replaced(plan)))
    _change_config(
        folder / "config.json",
        architectures=[f"LowRank{base_class}"],
        auto_map={
            "AutoConfig": f"{MODULE}.LowRank{base_config}",
            **{auto: f"{MODULE}.LowRank{base}" for auto, base in heads.items()},
        },
        model_type=model_type,
    )
    if plan.bits is not None:
        write_rounded(model, folder, folder, plan.bits)
    modules = [layers, *([experts_module] if experts else []), classes]
    code = TEMPLATES.get_template("modeling_ranksieve.py.jinja").render(
        base_config=base_config,
        config_name=f"LowRank{base_config}",
        bases=sorted(set(heads.values())),
        model_type=model_type,
        least_transformers=LEAST_TRANSFORMERS,
        sources=[_source(module) for module in modules],
    )
    (folder / f"{MODULE}.py").write_text(code, encoding="utf-8")
    card = model_card(
        provenance,
        plan.matrices,
        plan.ranks,
        heads=[f"`{auto}`" for auto in heads if auto != "AutoModelForCausalLM"],
        least_transformers=LEAST_TRANSFORMERS,
        bits=plan.bits,
        file_bytes=weight_bytes(folder),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "ranksieve.json").write_text(json.dumps(provenance, indent=2), encoding="utf-8")
    for file in folder.glob(WEIGHT_FILES):
        # safetensors makes files readable for their owner only, whatever the umask
        shutil.copymode(folder / "config.json", file)


def _source(module: ModuleType) -> str:
    """Return a module's text without the imports of this package."""
    assert module.__file__ is not None
    lines = Path(module.__file__).read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("from ranksieve."))


def _change_config(config_file: Path, **changes: object) -> None:
    values = json.loads(config_file.read_text(encoding="utf-8"))
    config_file.write_text(json.dumps({**values, **changes}, indent=2), encoding="utf-8")
