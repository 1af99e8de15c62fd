"""Whether matrices that read the same input gain by sharing one right factor: q/k/v, and gate/up.

A joint matrix stacks the outputs, so a rank costs one input row and all output columns. Its energies are those of the
two-sided whitening with the Gram of the summed gradient that its matrices pass back. For every size the predicted loss
(what the best threshold over all components cuts off) is put against that of separate factors of equal parameters,
both from the same calibration examples of the demo's task. With `--unseen N` the models are put together as well, and
what they lose on N examples of the confirm split is printed, too, in nats of the search's loss: separate, and how much
less it is joint.
"""

import json
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from real_model import CPU, RealModel, load, parser
from search_table import gain
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.factors.calibration import Calibrator
from ranksieve.workers.factors.decomposition import Factors, factor
from ranksieve.workers.factors.fisher import loss_of
from ranksieve.workers.factors.grams import Grams, GramSum
from ranksieve.workers.forward.batches import make_batches
from ranksieve.workers.forward.likelihood import answer_logits, right_choices
from ranksieve.workers.forward.loss import kl, log_likelihoods
from ranksieve.workers.model.loading import load_prepared
from ranksieve.workers.model.matrices import weight_OD
from ranksieve.workers.types.plan import EncodedTask, Example

GROUPS = {"q/k/v": ("q_proj", "k_proj", "v_proj"), "gate/up": ("gate_proj", "up_proj")}
BATCH_TOKENS = 1024

KL_WEIGHT = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A matrix, or several that share a right factor.

    `members`: names and outputs, in the order in which the left factor stacks them. `price`: of a component, in numbers
    stored.
    """

    factors: Factors
    members: dict[str, int]
    price: int

    @property
    def energies(self) -> NDArray[np.float64]:
        return self.factors.energy_K.numpy()

    def weights(self, rank: int) -> Iterator[tuple[str, torch.Tensor]]:
        """Of its matrices, from so many components."""
        stacked_OD = self.factors.left_RO[:rank].T @ self.factors.right_RD[:rank]
        yield from zip(self.members, stacked_OD.split(list(self.members.values())), strict=True)


def main() -> None:
    arguments = _arguments()
    model = load(arguments.data_dir, seed=arguments.seed, threads=arguments.threads)
    plain = load_prepared(model.prepared.model.folder, CPU)
    plain.requires_grad_(requires_grad=False)
    examples = model.task.splits["calibration"][: arguments.calibration]
    separate = _separate(model, plain, examples)
    joint = list(_joint(model, plain, examples))
    unseen = Unseen(plain, model.task, model.task.splits["confirm"][: arguments.unseen])
    rows: list[dict[str, Any]] = []
    print("| kept | loss, separate | " + " | ".join(f"{name} joint" for name in _choices()) + " |")
    print("|---:|---:|" + "---:|" * len(_choices()))
    for share in arguments.shares:
        budget = share * sum(matrix.dense_params for matrix in model.prepared.matrices)
        predicted, lost = {}, {}
        for name, groups in {"separate": (), **_choices()}.items():
            chosen = [part for group, part in joint if group in groups]
            gone = {member for part in chosen for member in part.members}
            parts = [*(part for part in separate if not gone & set(part.members)), *chosen]
            ranks, predicted[name] = _allocated(parts, budget)
            if arguments.unseen:
                lost[name] = unseen.loss(parts, ranks)
        base = predicted["separate"]
        rows.append(
            {"share": share, "predicted": predicted, "unseen": {k: v.tolist() for k, v in lost.items()}}
        )
        print(
            f"| {share} | predicted {base:.5f} | "
            + " | ".join(f"{predicted[c] / base:.3f}×" for c in _choices())
            + " |"
        )
        if lost:
            gains = (
                "{:+.4f} ({:+.4f} to {:+.4f})".format(*gain(lost["separate"], lost[choice]))
                for choice in _choices()
            )
            print(f"| | unseen {lost['separate'].mean():.4f} | " + " | ".join(gains) + " |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


def _arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--shares", nargs="+", type=float, default=[0.5, 0.4, 0.3, 0.2, 0.1])
    options.add_argument("--calibration", type=int, default=256, help="calibration examples")
    options.add_argument("--unseen", type=int, default=0, help="examples to score on")
    options.add_argument("--threads", type=int, default=2)
    return options.parse_args()


def _choices() -> Mapping[str, tuple[str, ...]]:
    return {**{name: (name,) for name in GROUPS}, "both": tuple(GROUPS)}


def _separate(model: RealModel, plain: PreTrainedModel, examples: Sequence[Example]) -> list[Part]:
    with Calibrator(plain, model.prepared.matrices) as calibrator:
        for _ in calibrator.run(model.task.kind, examples, BATCH_TOKENS, 0):
            pass
    return [_part([matrix], plain, *calibrator.grams.of(matrix.name)) for matrix in model.prepared.matrices]


def _part(
    matrices: Sequence[MatrixShape],
    plain: PreTrainedModel,
    forward_KK: torch.Tensor | None,
    backward_KK: torch.Tensor | None,
) -> Part:
    stacked_OD = torch.cat([weight_OD(plain.get_submodule(matrix.name)) for matrix in matrices])  # type: ignore[arg-type]
    made = factor(stacked_OD, min(stacked_OD.shape), forward_KK, backward_KK)
    return Part(
        factors=Factors(left_RO=made.left_RO.float(), right_RD=made.right_RD.float(), energy_K=made.energy_K),
        members={matrix.name: matrix.out_features for matrix in matrices},
        price=sum(stacked_OD.shape),
    )


def _joint(
    model: RealModel, plain: PreTrainedModel, examples: Sequence[Example]
) -> Iterator[tuple[str, Part]]:
    """Every group of every layer: from the Grams of its input, which has fewer entries than its outputs, and of the
    gradient there.
    """
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

        with ExitStack() as hooks:
            for name in members:
                hooks.enter_context(plain.get_submodule(name).register_forward_pre_hook(note(name)))
            embedding = plain.get_input_embeddings()
            leaf = embedding.register_forward_hook(lambda _, __, output: output.requires_grad_())
            logits_NV = answer_logits(plain, batch)
            loss_of(model.task.kind, logits_NV, examples, batch, choices, generator).backward()  # type: ignore[no-untyped-call]
            leaf.remove()
        grams.tokens += batch.tokens
    for name, (group, matrices) in members.items():
        yield group, _part(matrices, plain, *grams.of(name))


def _members(matrices: Sequence[MatrixShape]) -> Iterator[tuple[str, list[MatrixShape]]]:
    for layer in sorted({matrix.layer for matrix in matrices}):
        for group, kinds in GROUPS.items():
            inside = [m for m in matrices if m.layer == layer and m.kind.rsplit(".", 1)[-1] in kinds]
            yield group, inside


def _add(sums: dict[str, GramSum], name: str, rows_BLD: torch.Tensor, mask_T: torch.Tensor) -> None:
    width = rows_BLD.shape[-1]
    sums.setdefault(name, GramSum.zeros(width, CPU)).add_rows_(rows_BLD.flatten(0, -2)[mask_T])


def _allocated(parts: Sequence[Part], budget: float) -> tuple[list[int], float]:
    """Ranks by the best threshold at this many stored numbers, and the energy of what it leaves out."""
    energy = np.concatenate([part.energies for part in parts])
    price = np.concatenate([np.full(len(part.energies), part.price) for part in parts])
    owner = np.concatenate([np.full(len(part.energies), index) for index, part in enumerate(parts)])
    order = np.argsort(-energy / price)
    kept = np.searchsorted(np.cumsum(price[order]), budget)
    ranks = np.bincount(owner[order][:kept], minlength=len(parts))
    return ranks.tolist(), float(energy[order][kept:].sum())


class Unseen:
    """What a model loses on examples of its own, against the model as it is now."""

    def __init__(self, plain: PreTrainedModel, task: EncodedTask, examples: Sequence[Example]) -> None:
        assert task.kind == "choice"
        self._plain, self._examples = plain, examples
        self._choices = max((example.choices for example in examples), default=1)
        self._batches = make_batches(examples, self._choices, BATCH_TOKENS)
        self._dense = self._log_likelihoods()

    def loss(self, parts: Sequence[Part], ranks: Sequence[int]) -> NDArray[np.float64]:
        """Of each example, in nats above the dense model's; the weights are put back."""
        dense_weights = {}
        for part, rank in zip(parts, ranks, strict=True):
            for name, new_OD in part.weights(rank):
                dense_weights[name] = self._put(name, new_OD)
        lost = []
        for batch, before, now in zip(self._batches, self._dense, self._log_likelihoods(), strict=True):
            right = right_choices(self._examples, batch, CPU)
            rise, old = (functional.nll_loss(logp, right, reduction="none") for logp in (now, before))
            lost.append(KL_WEIGHT * kl(before, now) + (1 - KL_WEIGHT) * (rise - old))
        for name, old_OD in dense_weights.items():
            self._put(name, old_OD)
        return torch.cat(lost).double().numpy()

    def _put(self, name: str, new_OD: torch.Tensor) -> torch.Tensor:
        """Replaces a matrix; returns what it was."""
        weight = self._plain.get_submodule(name).weight
        assert isinstance(weight, torch.Tensor)
        before, weight.data = weight.data, new_OD.to(weight.dtype)
        return before

    @torch.no_grad()
    def _log_likelihoods(self) -> list[torch.Tensor]:
        """Batch by batch."""
        return [
            log_likelihoods("choice", answer_logits(self._plain, batch), self._examples, batch, self._choices)
            for batch in self._batches
        ]


if __name__ == "__main__":
    main()
