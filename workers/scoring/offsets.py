"""One number added to each answer: the help of labels without training.

Every model favours some answers, whatever it reads (arXiv 2102.09690). Candidates learn from labels, so the dense model
that they are measured against gets these numbers, fitted to the search split's right answers.

Legend: E examples, C choices.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ranksieve.workers.forward.likelihood import right_share

MOST_STEPS = 100


def fitted_offsets(logp_EC: NDArray[np.floating], labels_E: NDArray[np.int64]) -> NDArray[np.float64]:
    """Fit one number for each choice, C, in nats.

    The prior is a standard normal: it weighs about as much as a handful of records.

    Args:
        logp_EC: Log-likelihoods of the choices, -inf for those that are not offered.
        labels_E: The right choices.
    """
    logp, labels = torch.from_numpy(logp_EC).double(), torch.from_numpy(labels_E)
    offset_C = torch.zeros(logp.shape[1], dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([offset_C], max_iter=MOST_STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        total = F.cross_entropy(logp + offset_C, labels, reduction="sum") + offset_C.square().sum() / 2
        mean = total / len(labels)
        mean.backward()  # type: ignore[no-untyped-call]
        return mean

    solver.step(loss)  # type: ignore[no-untyped-call]
    return np.asarray(offset_C.detach().numpy())


def right_with(
    offset_C: NDArray[np.float64], logp_EC: NDArray[np.floating], labels_E: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the score of each example with the offsets, see `right_share`."""
    scores = right_share(torch.from_numpy(logp_EC + offset_C), torch.from_numpy(labels_E))
    return np.asarray(scores.numpy())
