"""Whether matrices that read the same input gain by sharing one right factor: q/k/v, and gate/up.

A joint matrix stacks the outputs, so a rank costs one input row and all output columns. Its energies are those of the
two-sided whitening with the Gram of the summed gradient that its matrices pass back. For every size the predicted loss
(what the best threshold over all components cuts off) is put against that of separate factors of equal parameters,
both from the same calibration examples of the demo's task.
"""

import json
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from real_model import CPU, RealModel, load, parser
from torch import nn
from transformers import PreTrainedModel

from search.matrix import MatrixShape
from workers.batches import make_batches
from workers.calibration import Calibrator
from workers.fisher import loss_of
from workers.flows import pre_hooks
from workers.grams import Grams, GramSum
from workers.likelihood import answer_logits
from workers.matrices import weight_OD
from workers.models import load_prepared
from workers.plan import Example
from workers.projections import INPUT_DAMPING, factor, square_root

GROUPS = {"q/k/v": ("q_proj", "k_proj", "v_proj"), "gate/up": ("gate_proj", "up_proj")}
BATCH_TOKENS = 1024

Components = tuple[NDArray[np.float64], int]
"""Energies and the price of each, in numbers stored."""


def main() -> None:
    arguments = _arguments()
    model = load(arguments.data_dir, seed=arguments.seed, threads=arguments.threads)
    plain = load_prepared(model.prepared.model.folder, CPU)
    plain.requires_grad_(requires_grad=False)
    examples = model.task.splits["calibration"][: arguments.calibration]
    separate = _separate(model, plain, examples)
    joint = _joint(model, plain, examples)
    rows: list[dict[str, Any]] = []
    print("| kept | predicted loss, separate | " + " | ".join(f"{name} joint" for name in _choices()) + " |")
    print("|---:|---:|" + "---:|" * len(_choices()))
    for share in arguments.shares:
        budget = share * sum(matrix.dense_params for matrix in model.prepared.matrices)
        base = _cut_off(separate.values(), budget)
        ratios = {}
        for name, groups in _choices().items():
            chosen = {members: part for (group, members), part in joint.items() if group in groups}
            gone = {member for members in chosen for member in members}
            rest = [part for name, part in separate.items() if name not in gone]
            ratios[name] = _cut_off([*rest, *chosen.values()], budget) / base
        rows.append({"share": share, "separate": base, **ratios})
        print(f"| {share} | {base:.5f} | " + " | ".join(f"{ratio:.3f}×" for ratio in ratios.values()) + " |")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def _arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.4, 0.3, 0.2, 0.1])
    options.add_argument("--calibration", type=int, default=256, help="calibration examples")
    options.add_argument("--threads", type=int, default=2)
    return options.parse_args()


def _choices() -> Mapping[str, tuple[str, ...]]:
    return {**{name: (name,) for name in GROUPS}, "both": tuple(GROUPS)}


def _separate(model: RealModel, plain: PreTrainedModel, examples: Sequence[Example]) -> dict[str, Components]:
    with Calibrator(plain, model.prepared.matrices, gradients=True) as calibrator:
        for _ in calibrator.run(model.task.kind, examples, BATCH_TOKENS, 0):
            pass
    parts: dict[str, Components] = {}
    for matrix in model.prepared.matrices:
        weight = weight_OD(plain.get_submodule(matrix.name))  # type: ignore[arg-type]
        energy_K = factor(weight, "task", 1, *calibrator.grams.of(matrix.name)).energy_K
        parts[matrix.name] = energy_K.numpy(), matrix.in_features + matrix.out_features
    return parts


def _joint(
    model: RealModel, plain: PreTrainedModel, examples: Sequence[Example]
) -> dict[tuple[str, tuple[str, ...]], Components]:
    """Of every group of every layer: the Grams of its input and of the gradient there, then the energies."""
    members = {matrices[0].name: (group, matrices) for group, matrices in _members(model.prepared.matrices)}
    grams = Grams()
    choices = max(example.choices for example in examples)
    generator = torch.Generator().manual_seed(0)
    for batch in make_batches(examples, choices, BATCH_TOKENS):
        mask_T = batch.mask_BL.flatten()

        def note(name: str, mask_T: torch.Tensor = mask_T) -> Callable[..., None]:
            def before_forward(_: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
                _add(grams.forward, name, args[0].detach(), mask_T)
                args[0].register_hook(lambda grad: _add(grams.backward, name, grad, mask_T))  # type: ignore[no-untyped-call]

            return before_forward

        with pre_hooks(plain, members, note):
            embedding = plain.get_input_embeddings()
            leaf = embedding.register_forward_hook(lambda _, __, output: output.requires_grad_())
            logits_NV = answer_logits(plain, batch)
            loss_of(model.task.kind, "true", logits_NV, examples, batch, choices, generator).backward()  # type: ignore[no-untyped-call]
            leaf.remove()
        grams.tokens += batch.tokens
    parts: dict[tuple[str, tuple[str, ...]], Components] = {}
    for name, (group, matrices) in members.items():
        forward_DD, backward_DD = grams.of(name)
        assert forward_DD is not None
        root_DD = square_root(forward_DD, INPUT_DAMPING)
        energy_D = torch.linalg.eigvalsh(root_DD.T @ backward_DD @ root_DD)
        price = matrices[0].in_features + sum(matrix.out_features for matrix in matrices)
        parts[group, tuple(matrix.name for matrix in matrices)] = energy_D.flip(0).clamp_min(0).numpy(), price
    return parts


def _members(matrices: Sequence[MatrixShape]) -> Iterator[tuple[str, list[MatrixShape]]]:
    for layer in sorted({matrix.layer for matrix in matrices}):
        for group, kinds in GROUPS.items():
            inside = [m for m in matrices if m.layer == layer and m.kind.rsplit(".", 1)[-1] in kinds]
            yield group, inside


def _add(sums: dict[str, GramSum], name: str, rows_BLD: torch.Tensor, mask_T: torch.Tensor) -> None:
    width = rows_BLD.shape[-1]
    sums.setdefault(name, GramSum.zeros(width, CPU)).add_rows_(rows_BLD.flatten(0, -2)[mask_T])


def _cut_off(parts: Any, budget: float) -> float:
    """Energy of the components that the best threshold leaves out at this many stored numbers."""
    energy = np.concatenate([energies for energies, _ in parts])
    price = np.concatenate([np.full(len(energies), price) for energies, price in parts])
    order = np.argsort(-energy / price)
    kept = np.searchsorted(np.cumsum(price[order]), budget)
    return float(energy[order][kept:].sum())


if __name__ == "__main__":
    main()
