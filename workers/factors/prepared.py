"""Inputs and outputs of preparation: a folder of factors, and their metadata.

factors*.safetensors         two factors of each matrix, `NAME:left` and `NAME:right`, in the model's dtype
energies*.npz                value of their components, by matrix
facts.json                   the matrices, and the numbers of parameters
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from transformers import PreTrainedModel

from ranksieve.search.space.matrix import MatrixShape
from ranksieve.search.space.space import SearchSpace
from ranksieve.workers.factors.training import Training
from ranksieve.workers.factors.tuning import Tuning
from ranksieve.workers.model.loading import PreparedModel
from ranksieve.workers.model.matrices import linear_params
from ranksieve.workers.model.switchable import SwitchableModel, switchable_module
from ranksieve.workers.types.plan import EncodedTask, ModelSource

FACTORS, ENERGIES, FACTS = "factors", "energies", "facts.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparationPlan:
    """Plan of a preparation.

    Every field but `threads` and the last four shapes the result.

    `midway_share`: the share of parameters of the smaller model midway to which the second
    moments are gathered, see `workers.factors.midway`; None for the dense model's. `threads`: threads of one worker.
    `gram_bytes`: memory of one worker for Grams, see `workers.factors.passes.passes`. `workers`: number of workers that
    run `closed_form` at once. `tuned`: the model to work on instead of `model`, if it was tuned.
    """

    model: ModelSource
    task: EncodedTask
    gram_examples: int | None = None
    midway_share: float | None = None
    training: Training = field(default_factory=Training)
    tuning: Tuning = field(default_factory=Tuning)
    tuned: "Tuned | None" = None
    seed: int
    batch_tokens: int
    threads: int
    device: str
    gram_bytes: int
    cache_dir: Path
    cache_limit_bytes: float = math.inf
    workers: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuned:
    """Model tuned on the task, maybe with fewer blocks, and the given model.

    `model`: the one to work on. `blocks`: its blocks, of `all_blocks`. `absent`: matrices of the others. `block_params`
    and `total_params`: those of the given model, see `Prepared`. `quality`: score of the given model on each record, by
    split. `helped`: the same with one number added to each choice, fitted to the search split's right answers; equal to
    `quality` for written answers.
    """

    model: PreparedModel
    given: PreparedModel
    blocks: int
    all_blocks: int
    absent: tuple[MatrixShape, ...]
    block_params: int
    total_params: int
    quality: Mapping[str, NDArray[np.float64]]
    helped: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """Prepared model and its factors, as paths and numbers.

    `energies[i]` belongs to `matrices[i]`, see `factors.decomposition.Factors`. Parameter counts: `total_params`
    counts tied weights once; `block_params` are all weight matrices inside the blocks, biases not counted.
    `tuned`: how the model was made, if it was tuned.
    """

    model: PreparedModel
    factors: Path
    matrices: tuple[MatrixShape, ...]
    energies: tuple[NDArray[np.float64], ...]
    total_params: int
    block_params: int
    tuned: Tuned | None = None

    @property
    def given(self) -> PreparedModel:
        """The dense model that the job names."""
        return self.tuned.given if self.tuned else self.model

    @property
    def dense_block_params(self) -> int:
        """`block_params` of the dense model that the job names."""
        return self.tuned.block_params if self.tuned else self.block_params

    @property
    def dense_total_params(self) -> int:
        """`total_params` of the dense model that the job names."""
        return self.tuned.total_params if self.tuned else self.total_params

    def space(self, rank_step: int) -> SearchSpace:
        """Return the search space without constraints."""
        absent = self.tuned.absent if self.tuned else ()
        return SearchSpace(self.matrices, rank_step, absent=absent)

    def params_with(self, searched: int) -> tuple[int, int]:
        """Return `block_params` and `total_params` of a candidate.

        Args:
            searched: Parameters that it keeps of `matrices`.
        """
        block_params = self.block_params - sum(matrix.dense_params for matrix in self.matrices) + searched
        return block_params, self.total_params - self.block_params + block_params


def with_factors(model: PreTrainedModel, matrices: Sequence[MatrixShape], folder: Path) -> SwitchableModel:
    """Return a model with a folder's factors."""
    return SwitchableModel(model, matrices, load_factors(folder))


def load_factors(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Map the factors into memory; every actor on the machine shares the pages.

    Returns:
        Matrix name → (left R×O, right R×D), components in rows.
    """
    factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for shard in sorted(folder.glob(f"{FACTORS}*.safetensors")):
        with safetensors.safe_open(shard, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  (not a dict)
                name, side = key.rsplit(":", 1)
                if side == "left":
                    factors[name] = (file.get_tensor(key), file.get_tensor(f"{name}:right"))
    return factors


def read(model: PreparedModel, folder: Path, tuned: Tuned | None) -> Prepared:
    """Read a folder of factors."""
    facts = json.loads((folder / FACTS).read_text())
    matrices = tuple(MatrixShape(**matrix) for matrix in facts["matrices"])
    energies: dict[str, NDArray[np.float64]] = {}
    for shard in sorted(folder.glob(f"{ENERGIES}*.npz")):
        with np.load(shard, allow_pickle=False) as stored:
            energies.update(stored)
    return Prepared(
        model=model,
        factors=folder,
        matrices=matrices,
        energies=tuple(energies[matrix.name] for matrix in matrices),
        total_params=facts["total_params"],
        block_params=facts["block_params"],
        tuned=tuned,
    )


def stored(
    name: str, left_RO: torch.Tensor, right_RD: torch.Tensor, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Return a matrix's factors in the form that `load_factors` reads."""
    return {f"{name}:left": left_RO.to("cpu", dtype), f"{name}:right": right_RD.to("cpu", dtype)}


def write_factors(switchable: SwitchableModel, prepared: Prepared, folder: Path) -> None:
    """Write a model's current factors."""
    dtype = getattr(torch, prepared.model.dtype)
    tensors: dict[str, torch.Tensor] = {}
    for matrix in prepared.matrices:
        module = switchable_module(switchable.model, matrix.name)
        tensors |= stored(matrix.name, module.left_RO, module.right_RD, dtype)
    save_file(tensors, folder / f"{FACTORS}.safetensors")


def write_facts(folder: Path, model: PreTrainedModel, matrices: Sequence[MatrixShape]) -> None:
    """Write the metadata of a folder of factors, see `read`."""
    facts = {
        "matrices": [asdict(matrix) for matrix in matrices],
        "total_params": sum(parameter.numel() for parameter in model.parameters()),
        "block_params": linear_params(model),
    }
    (folder / FACTS).write_text(json.dumps(facts))


def compute_dtype(model: PreparedModel) -> torch.dtype | None:
    """Return the dtype of gradients; those of float16 would underflow."""
    return torch.float32 if model.dtype == "float16" else None
