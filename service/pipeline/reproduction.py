"""Checks of an exported model against the candidate that it was made from."""

from ranksieve.search.errors import ScoringError
from ranksieve.workers.types.metrics import drop_points
from ranksieve.workers.types.plan import EncodedTask
from ranksieve.workers.types.scores import Scores, metric_of

VERIFIED_EXAMPLES = 512
"""Most examples of the confirm split to compare export and candidate on."""

REPRODUCED_WITHIN_NATS = 0.1
"""Largest difference of an export from its candidate, in nats per answer token.

Both round in the same way. On SmolLM2-135M, all rows of all matrices in the wrong order make 1.0, and those of one
matrix between 0.03 and 0.6, so an error in one late matrix may pass.
"""

POINTS, EXAMPLES = 2.0, 2
"""Largest difference of an export from its measurement, in points or examples.

The larger of the two counts.
"""


def require_reproduced(expected: Scores, scores: Scores) -> None:
    """Check that the export reproduces the confirmed scores example by example.

    A metric over all examples would not show it: rounding flips a few answers, and so may a broken export. The
    likelihood of each right answer shows it.

    Args:
        expected: Scores of the candidate.
        scores: Scores of the exported model, on the same examples.

    Raises:
        ScoringError: The scores differ too much.
    """
    difference = float((abs(scores.nll_nats - expected.nll_nats) / expected.answer_tokens).mean())
    if not difference <= REPRODUCED_WITHIN_NATS:
        raise ScoringError(
            "the exported model does not reproduce its candidate: the negative log-likelihood of the confirm "
            f"split's right answers differs by {difference:.3f} nats per token on average, at most "
            f"{REPRODUCED_WITHIN_NATS} expected; the export is broken, please report this"
        )


def require_same_metric(task: EncodedTask, expected: float, scores: Scores) -> None:
    """Check that the export does about as well as its candidate was measured.

    For candidates whose scores of single examples were not kept.

    Args:
        task: The task.
        expected: Metric of the candidate.
        scores: Scores of the exported model, on the same examples.

    Raises:
        ScoringError: The metrics differ too much.
    """
    metric = metric_of(task.kind, scores)
    allowed = max(POINTS, 100 * EXAMPLES / len(scores.quality))
    difference = abs(drop_points(task.kind, expected, metric))
    if not difference <= allowed:
        raise ScoringError(
            f"the exported model differs from the measurement of its candidate: {metric:.4f}, expected "
            f"{expected:.4f}, {difference:.2f} points apart, at most {allowed:.2f} allowed; the factors may have been "
            "made again on another kind of machine, else please report this"
        )
