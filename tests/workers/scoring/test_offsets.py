import numpy as np

from ranksieve.workers.scoring.offsets import fitted_offsets, right_with


def log_softmax(scores: list[list[float]]) -> np.ndarray:
    scores_EC = np.array(scores)
    return scores_EC - np.log(np.exp(scores_EC).sum(axis=1, keepdims=True))


def test_offsets_undo_a_preference_for_one_answer() -> None:
    evidence = np.random.default_rng(0).normal(size=200)
    labels = (evidence > 0).astype(np.int64)
    logp_EC = log_softmax([[4.0, score] for score in evidence])  # the first answer always wins
    offset_C = fitted_offsets(logp_EC, labels)
    assert right_with(np.zeros(2), logp_EC, labels).mean() == (labels == 0).mean()
    assert right_with(offset_C, logp_EC, labels).mean() > 0.95


def test_offsets_of_choices_that_few_records_offer_are_finite() -> None:
    logp_EC = np.array([[-0.7, -0.7, -np.inf], [-1.1, -1.1, -1.1], [-0.7, -0.7, -np.inf]])
    offset_C = fitted_offsets(logp_EC, np.array([0, 0, 0]))
    assert np.isfinite(offset_C).all()
    assert right_with(offset_C, logp_EC, np.array([0, 0, 0])).tolist() == [1, 1, 1]
