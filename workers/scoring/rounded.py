"""Scorer of candidates with weights of few bits, and of the dense model.

Weights are rounded once, when an actor loads them, so that another candidate is still a matter of slices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel

from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.factors.prepared import with_factors
from ranksieve.workers.model.rounding import round_weights, rounded_factors
from ranksieve.workers.model.switchable import SwitchableModel, switchable_module
from ranksieve.workers.scoring.scorer import Scorer
from ranksieve.workers.types.scores import Beliefs, Failure, ScoreRequest, Scores


class RoundedScorer:
    """Scores candidates as they will be stored, and the dense model as it is.

    Args:
        dense: Scorer of the dense model, without factors.
        candidates: Scorer of a model of `with_rounded_factors`.
    """

    def __init__(self, dense: Scorer, candidates: Scorer) -> None:
        self._dense, self._candidates = dense, candidates

    def set_beliefs(self, beliefs: Mapping[str, Beliefs]) -> None:
        """Set the dense model's beliefs per split."""
        self._candidates.set_beliefs(beliefs)

    def score(self, request: ScoreRequest) -> Scores | Failure:
        """Score a candidate, see `Scorer.score`."""
        return self._candidates.score(request)

    def score_dense(self, request: ScoreRequest) -> tuple[Scores, Beliefs]:
        """Score the dense model, see `Scorer.score_dense`."""
        return self._dense.score_dense(replace(request, ranks=()))


def with_rounded_factors(
    model: PreTrainedModel, matrices: Sequence[MatrixShape], folder: Path, bits: int
) -> SwitchableModel:
    """Return a model with a folder's factors, both rounded.

    Args:
        model: Dense model, changed in place.
        matrices: Matrices with factors.
        folder: Folder of the factors.
        bits: Bits of a weight.
    """
    round_weights(model, bits)
    switchable = with_factors(model, matrices, folder)
    for matrix in matrices:
        module = switchable_module(model, matrix.name)
        module.left_RO, module.right_RD = rounded_factors(module.left_RO, module.right_RD, bits)
    return switchable
