"""Slopes of the task loss along the next components of each matrix, up and down.

Legend: E examples, M matrices, B rows of a batch, L length, O output width, D input width, W components of a window.

A gate m on component r of a matrix, y = leftᵀ diag(m) right x, is 1 where the component is kept and 0 where it is cut.
The loss's derivative by it is Σ (left_r · g)(right_r · x) over all tokens, g = ∂loss/∂y: one backward pass gives it for
all components of all matrices (arXiv 1611.06440, equation 7, for the gates of channels). Here it is summed over a
window of components on either side of each matrix's rank, for each example apart: the rows of a batch do not meet. The
energies of `decomposition` are of second order around the dense model; this is of first order around the model as
it is.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from ranksieve.search.errors import ScoringError
from ranksieve.search.space.matrix import DENSE
from ranksieve.workers.factors.calibration import require_grad
from ranksieve.workers.forward.batches import Batch, make_batches
from ranksieve.workers.forward.likelihood import answer_logits
from ranksieve.workers.forward.loss import dense_logits, log_likelihoods, qualities, task_losses
from ranksieve.workers.model.experts import Expert, expert_of
from ranksieve.workers.model.switchable import SwitchableLinear, SwitchableModel, switchable_module
from ranksieve.workers.types.plan import Example
from ranksieve.workers.types.scores import Floats, LossSlopes

FLOAT16_SCALE = 1024.0
"""Scale of the loss for float16 gradients, of which small ones would vanish; a power of two rounds nothing."""


def measure_slopes(
    model: SwitchableModel,
    ranks: Sequence[int],
    kind: str,
    examples: Sequence[Example],
    batch_tokens: int,
    *,
    kl_weight: float,
    window: int,
    known: list[torch.Tensor] | None = None,
) -> LossSlopes:
    """Measure the slopes of the model at these ranks on each example.

    Args:
        model: Switched to the ranks, and left there.
        ranks: One per matrix.
        kind: Kind of the task.
        examples: Any, with right answers.
        batch_tokens: Padded tokens per pass.
        kl_weight: Weight in the loss, see `workers.forward.loss`.
        window: Components on either side of the rank.
        known: The dense model's log-likelihoods of these examples, batch by batch, from an earlier call; missing ones
            are added, for `choice`.

    Raises:
        ScoringError: A loss or a slope is not finite.
    """
    known = [] if known is None else known
    model.model.requires_grad_(requires_grad=False)
    max_choices = max(example.choices for example in examples)
    quality_2E = np.zeros((2, len(examples)))  # of the dense model and this one
    with _Watch(model, ranks, window) as watch:
        for number, batch in enumerate(make_batches(examples, max_choices, batch_tokens)):
            here = batch.to(model.model.device)
            if number < len(known):
                dense = known[number]
            else:
                dense = log_likelihoods(kind, dense_logits(model, here), examples, here, max_choices)
                if kind == "choice":  # other kinds have rows as long as the vocabulary
                    known.append(dense)
            watch.begin(here, [index for index in batch.examples for _ in examples[index].rows])
            with torch.enable_grad():
                model.switch(ranks)
                logits_NV = answer_logits(model.model, here)
                logp = log_likelihoods(kind, logits_NV, examples, here, max_choices)
                loss = task_losses(kind, dense, logp, examples, here, kl_weight).sum()
                if not torch.isfinite(loss):
                    raise ScoringError("the candidate's loss is not finite")
                (watch.scale * loss).backward()  # type: ignore[no-untyped-call]
            for quality_E, each in zip(quality_2E, (dense, logp.detach()), strict=True):
                quality_E[list(here.examples)] = qualities(kind, each, examples, here, max_choices).cpu()
        return watch.measured(*quality_2E)


class _Watch:
    """Hooks on all matrices that are not gone, for as long as the `with` block lasts.

    Gradients must be those of `scale` times the loss.
    """

    def __init__(self, model: SwitchableModel, ranks: Sequence[int], window: int) -> None:
        self._model = model
        self.scale = FLOAT16_SCALE if model.model.dtype == torch.float16 else 1.0
        self._example_R: list[int] = []  # of all rows so far
        model.switch(ranks)
        self._windows = [
            _Window(switchable_module(model.model, name), expert_of(model.model, name), window)
            for name in (matrix.name for matrix in model.matrices)
        ]

    def __enter__(self) -> "_Watch":
        self._handles = [window.module.register_forward_hook(window.watch) for window in self._windows]
        self._handles.append(self._model.model.get_input_embeddings().register_forward_hook(require_grad))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def begin(self, batch: Batch, example_B: Sequence[int]) -> None:
        """Begin the next batch; `example_B` is the example of each row."""
        self._example_R += example_B
        for window in self._windows:
            window.begin(*batch.ids_BL.shape)

    def measured(self, dense_quality_E: Floats, quality_E: Floats) -> LossSlopes:
        """Return the slopes of all batches so far."""
        kept_EM, cut_EM = np.zeros((2, len(quality_E), len(self._windows)))
        for m, window in enumerate(self._windows):
            slopes_2R = torch.cat(window.slopes, dim=1) / self.scale
            if not slopes_2R.isfinite().all():
                raise ScoringError("the candidate's slopes are not finite; try model.dtype: float32")
            kept_R, cut_R = slopes_2R.cpu().numpy()
            np.add.at(kept_EM[:, m], self._example_R, kept_R)
            np.add.at(cut_EM[:, m], self._example_R, cut_R)
        return LossSlopes(
            start=np.array([window.start for window in self._windows]),
            rank=np.array([window.rank for window in self._windows]),
            stop=np.array([window.stop for window in self._windows]),
            kept=kept_EM,
            cut=cut_EM,
            quality=quality_E,
            dense_quality=dense_quality_E,
        )


class _Window:
    """Components of one matrix from `start` to `stop`, on either side of its `rank`.

    Empty if the matrix is gone.
    """

    def __init__(self, module: SwitchableLinear, expert: Expert | None, window: int) -> None:
        self.module = module
        self._expert = expert
        stored = len(module.left_RO)
        self.rank = stored if module.rank == DENSE else module.rank
        self.start = max(0, self.rank - window)
        self.stop = min(stored, self.rank + window) if self.rank else 0
        self.slopes: list[torch.Tensor] = []
        """Slopes of each batch, 2×B: summed below the rank and above it."""
        self._length = 0

    def begin(self, rows: int, length: int) -> None:
        """Begin the next batch, of this many rows and positions."""
        device = self.module.left_RO.device
        self.slopes.append(torch.zeros(2, rows, dtype=torch.float64, device=device))
        self._length = length

    def watch(self, module: SwitchableLinear, args: tuple[torch.Tensor, ...], y_BLO: torch.Tensor) -> None:
        """Watch a forward pass; padding adds nothing, since its gradients are zero."""
        if not (y_BLO.requires_grad and self.rank):
            return
        right_WD, left_WO = (factor[self.start : self.stop] for factor in (module.right_RD, module.left_RO))
        hidden_BLW = F.linear(args[0].detach(), right_WD)
        slopes_2B = self.slopes[-1]
        tokens_P = self._sent(slopes_2B.shape[1] * self._length)

        def take(grad_BLO: torch.Tensor) -> None:
            products_BLW = hidden_BLW.float() * F.linear(grad_BLO, left_WO).float()
            slopes_BW = _by_row(products_BLW, slopes_2B.shape[1], self._length, tokens_P)
            kept = self.rank - self.start
            slopes_2B[0].add_(slopes_BW[:, :kept].sum(dim=1))
            slopes_2B[1].add_(slopes_BW[:, kept:].sum(dim=1))

        y_BLO.register_hook(take)  # type: ignore[no-untyped-call]

    def _sent(self, tokens: int) -> torch.Tensor | None:
        """Return the tokens of the batch that are sent to the matrix's expert, if any."""
        expert = self._expert
        return expert.tokens_P if expert is not None and expert.of == tokens else None


def _by_row(
    products_BLW: torch.Tensor, rows: int, length: int, tokens_P: torch.Tensor | None
) -> torch.Tensor:
    """Sum over each row's tokens, B×W; unassigned products are shared equally.

    Some modules see the rows concatenated; `tokens_P` of their tokens are sent to an expert.
    """
    products_TW = products_BLW.flatten(0, -2)
    if tokens_P is not None:
        return products_TW.new_zeros(rows, products_TW.shape[1]).index_add_(
            0, tokens_P // length, products_TW
        )
    if len(products_TW) != rows * length:
        return products_TW.sum(dim=0).expand(rows, -1) / rows
    return products_TW.reshape(rows, length, -1).sum(dim=1)
