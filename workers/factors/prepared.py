"""What a search is prepared by, and what comes of it: a folder of factors, and what is known of them.

factors*.safetensors         two factors of each matrix, `NAME:left` and `NAME:right`, in the model's dtype
energies*.npz                what their components are worth, by matrix
facts.json                   the matrices, and how many parameters there are
answer_bias.safetensors      of the output head, where there is one; see `workers.factors.answer_bias`
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.factors.decomposition import Method
from ranksieve.workers.factors.propagation import PropagatedShares
from ranksieve.workers.factors.training import Refinement
from ranksieve.workers.model.loading import PreparedModel
from ranksieve.workers.model.matrices import linear_params
from ranksieve.workers.model.switchable import SwitchableModel, switchable_module
from ranksieve.workers.types.plan import EncodedTask, ModelSource

FACTORS, ENERGIES = "factors", "energies"
FACTS, ANSWER_BIAS = "facts.json", "answer_bias.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparationPlan:
    """What to prepare; every field but `threads` and the last four shapes the result.

    `midway_share`: of `task` factors, the share of the parameters that the smaller model keeps on the way to which the
    second moments are taken, see `workers.factors.midway`; None for the dense model's.
    `propagated_shares`: of `task` factors, what the models keep in which errors are propagated, or how much of the
    metric of `choice` they may lose, see `factors.propagation`; none: they are not.
    `threads`: of one worker. `gram_bytes`: memory of one worker for Grams, see `workers.factors.calibration.passes`.
    `workers`: how many run `closed_form` at once.
    """

    model: ModelSource
    task: EncodedTask
    method: Method
    gram_examples: int | None = None
    midway_share: float | None = None
    propagated_shares: PropagatedShares = ()
    refinement: Refinement = field(default_factory=Refinement)
    seed: int
    batch_tokens: int
    threads: int
    device: str
    gram_bytes: int
    cache_dir: Path
    cache_limit_bytes: float = math.inf
    workers: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Propagation:
    """What error propagation came to: the loss of a model in the middle of those sizes, before it and after.

    In nats, on calibration records that the factors were not made of, see `forward.loss`. `standard_error`: of the
    difference, which is known record by record. `shares`: what the models keep in which they are propagated.
    `answer_bias`: whether the output head has a bias with them, which is not in those losses: it makes the right
    answers likelier in the models of all sizes together, and may diverge from the dense model by it. `reason`: why
    errors could not be propagated.
    """

    shares: tuple[float, ...] = ()
    loss_before: float | None = None
    loss_after: float | None = None
    standard_error: float | None = None
    answer_bias: bool = False
    reason: str | None = None

    @property
    def kept(self) -> bool:
        """Whether the new factors are taken: where no model is known to lose more with them.

        That is told by the one-standard-error rule (Breiman et al., 1984), since they are the better ones as a rule.
        """
        return (
            self.loss_before is not None
            and self.loss_after is not None
            and self.standard_error is not None
            and self.loss_after < self.loss_before + self.standard_error
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """The prepared model and its factors, as paths and numbers.

    `energies[i]` belongs to `matrices[i]`, see `factors.decomposition.Factors`. Parameter counts: `total_params`
    counts tied weights once; `block_params` are all weight matrices inside the blocks, biases not counted.
    `propagation`: what came of it, where it was wanted.
    """

    model: PreparedModel
    factors: Path
    matrices: tuple[MatrixShape, ...]
    energies: tuple[NDArray[np.float64], ...]
    total_params: int
    block_params: int
    propagation: Propagation | None = None


def with_factors(model: PreTrainedModel, matrices: Sequence[MatrixShape], folder: Path) -> SwitchableModel:
    """A model with the factors of a folder, and the bias of the output head that goes with them."""
    made = SwitchableModel(model, matrices, load_factors(folder))
    if (bias_V := load_answer_bias(folder)) is not None:
        made.set_answer_bias(bias_V)
    return made


def load_answer_bias(folder: Path) -> torch.Tensor | None:
    """What goes with the factors of a folder in every candidate but the dense model, see `factors.answer_bias`."""
    file = folder / ANSWER_BIAS
    return load_file(file)["bias"] if file.exists() else None


def load_factors(folder: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Maps the factors into memory; every actor on the machine shares the pages.

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


def read(model: PreparedModel, folder: Path) -> Prepared:
    """What a folder of factors holds."""
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
    )


def stored(
    name: str, left_RO: torch.Tensor, right_RD: torch.Tensor, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """A matrix's factors as `load_factors` finds them in the file."""
    return {f"{name}:left": left_RO.to("cpu", dtype), f"{name}:right": right_RD.to("cpu", dtype)}


def write_factors(switchable: SwitchableModel, prepared: Prepared, folder: Path) -> None:
    """Writes the factors that a model has now, and the bias of its output head that goes with them."""
    dtype = getattr(torch, prepared.model.dtype)
    tensors: dict[str, torch.Tensor] = {}
    for matrix in prepared.matrices:
        module = switchable_module(switchable.model, matrix.name)
        tensors |= stored(matrix.name, module.left_RO, module.right_RD, dtype)
    save_file(tensors, folder / f"{FACTORS}.safetensors")
    if switchable.answer_bias is not None:
        save_file({"bias": switchable.answer_bias.to(dtype)}, folder / ANSWER_BIAS)


def write_facts(folder: Path, model: PreTrainedModel, matrices: Sequence[MatrixShape]) -> None:
    """Writes what else is known of a folder of factors, beside their energies: see `read`."""
    facts = {
        "matrices": [asdict(matrix) for matrix in matrices],
        "total_params": sum(parameter.numel() for parameter in model.parameters()),
        "block_params": linear_params(model),
    }
    (folder / FACTS).write_text(json.dumps(facts))


def compute_dtype(model: PreparedModel) -> torch.dtype | None:
    """What gradients are computed in; those of float16 underflow."""
    return torch.float32 if model.dtype == "float16" else None
