"""How the task loss of a compressed model reacts to the next components of each matrix, up and down.

Legend: B batch, L length, O output width, D input width, W components of a window.

A gate m on component r of a matrix, y = leftᵀ diag(m) right x, is 1 where the component is kept and 0 where it is cut.
The loss's derivative by it is Σ (left_r · g)(right_r · x) over all tokens, g = ∂loss/∂y: one backward pass tells it for
all components of all matrices (arXiv 1611.06440, equation 7, for the gates of channels). Here it is summed over a
window of components on either side of each matrix's rank. The energies of `workers.projections` are of second order
around the dense model; this is of first order around the model as it is.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from search.errors import ScoringError
from search.matrix import DENSE
from workers.batches import make_batches
from workers.calibration import require_grad
from workers.lowrank import SwitchableLinear, SwitchableModel, switchable_module
from workers.plan import Example
from workers.scores import Reaction
from workers.task_loss import logits_of_both, task_loss


def react(
    model: SwitchableModel,
    ranks: Sequence[int],
    kind: str,
    examples: Sequence[Example],
    batch_tokens: int,
    *,
    kl_weight: float,
    window: int,
) -> Reaction:
    """The reaction of the model at these ranks, summed over examples.

    Args:
        model: Switched to the ranks, and left there.
        ranks: One per matrix.
        kind: Of the task.
        examples: Any, with right answers.
        batch_tokens: Padded tokens per pass.
        kl_weight: Of the loss, see `workers.task_loss`.
        window: Components on either side of the rank.

    Raises:
        ScoringError: A loss is not finite.
    """
    model.model.requires_grad_(requires_grad=False)
    max_choices = max(example.choices for example in examples)
    with _Watch(model, ranks, window) as watch:
        for batch in make_batches(examples, max_choices, batch_tokens):
            here = batch.to(model.model.device)
            with torch.enable_grad():
                dense_NV, logits_NV = logits_of_both(model, ranks, here)
                loss = task_loss(kind, dense_NV, logits_NV, examples, here, max_choices, kl_weight)
                if not torch.isfinite(loss):
                    raise ScoringError("the candidate's loss is not finite")
                loss.backward()  # type: ignore[no-untyped-call]
        return watch.reaction()


class _Watch:
    """Hooks on all matrices, for as long as the `with` block lasts; what is gone is not watched."""

    def __init__(self, model: SwitchableModel, ranks: Sequence[int], window: int) -> None:
        self._model = model
        model.switch(ranks)
        self._windows = [
            _Window(switchable_module(model.model, matrix.name), window) for matrix in model.matrices
        ]

    def __enter__(self) -> "_Watch":
        self._handles = [window.module.register_forward_hook(window.watch) for window in self._windows]
        self._handles.append(self._model.model.get_input_embeddings().register_forward_hook(require_grad))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def reaction(self) -> Reaction:
        sums = [window.halves() for window in self._windows]
        return Reaction(
            start=np.array([window.start for window in self._windows]),
            rank=np.array([window.rank for window in self._windows]),
            stop=np.array([window.stop for window in self._windows]),
            kept=np.array([kept for kept, _ in sums]),
            cut=np.array([cut for _, cut in sums]),
        )


class _Window:
    """The components of one matrix from `start` to `stop`, on either side of its `rank`; empty where it is gone."""

    def __init__(self, module: SwitchableLinear, window: int) -> None:
        self.module = module
        stored = len(module.left_RO)
        self.rank = stored if module.rank == DENSE else module.rank
        self.start = max(0, self.rank - window)
        self.stop = min(stored, self.rank + window) if self.rank else 0
        self._slopes_W = torch.zeros(
            self.stop - self.start, dtype=torch.float64, device=module.left_RO.device
        )

    def watch(self, module: SwitchableLinear, args: tuple[torch.Tensor, ...], y_BLO: torch.Tensor) -> None:
        """A forward hook; padding adds nothing, its gradients are zero."""
        if not (y_BLO.requires_grad and self.rank):
            return
        right_WD, left_WO = (factor[self.start : self.stop] for factor in (module.right_RD, module.left_RO))
        hidden_BLW = F.linear(args[0].detach(), right_WD)

        def take(grad_BLO: torch.Tensor) -> None:
            products_BLW = hidden_BLW.float() * F.linear(grad_BLO, left_WO).float()
            self._slopes_W.add_(products_BLW.flatten(0, -2).sum(dim=0))

        y_BLO.register_hook(take)  # type: ignore[no-untyped-call]

    def halves(self) -> tuple[float, float]:
        """The slopes summed below the rank and above it."""
        kept = self.rank - self.start
        return float(self._slopes_W[:kept].sum()), float(self._slopes_W[kept:].sum())
