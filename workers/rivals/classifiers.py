"""Rivals that are classifiers: a bag of words, and a probe on hidden states.

Both need answers that are the same for every record. Both are logistic regressions, whose strength of regularization
is chosen on the search split.

Legend: E examples, H hidden size, F features.
"""

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ranksieve.search.errors import ScoringError
from ranksieve.workers.factors.tuning import keep_first
from ranksieve.workers.forward.hidden import hidden_states
from ranksieve.workers.model.matrices import block_list
from ranksieve.workers.rivals.first_blocks import depths
from ranksieve.workers.rivals.rival import Rival, Setup, class_scores, stored_bytes
from ranksieve.workers.types.plan import Example
from ranksieve.workers.types.scores import ScoreRequest, Scores

WORD_STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Inverse strengths of regularization for words, from strong to weak."""

PROBE_STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.1)
"""Inverse strengths of regularization for standardized hidden states."""

MOST_ITERATIONS = 3000

PROBE_SHARES = (1 / 6, 1 / 3, 1 / 2, 1.0)
"""Shares of the blocks below a probe."""


def bag_of_words(setup: Setup) -> Iterator[Rival]:
    """Yield TF-IDF of one and two words with a logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    texts = {name: _texts(setup, examples) for name, examples in setup.task.splits.items()}
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    fitted_EF = vectorizer.fit_transform(texts["calibration"])

    def make(strength: float) -> Any:
        return LogisticRegression(C=strength, max_iter=MOST_ITERATIONS)

    searched_EF = vectorizer.transform(texts["search"])
    classifier, strength = _chosen(setup, make, fitted_EF, searched_EF, WORD_STRENGTHS)

    def score(request: ScoreRequest) -> Scores:
        x_EF = vectorizer.transform(texts[request.split][request.start : request.stop])
        return _scores(_asked(setup, request), classifier, x_EF)

    yield Rival(
        name="TF-IDF, logistic regression",
        settings={"C": strength},
        size_bytes=len(pickle.dumps((vectorizer, classifier))),
        score=score,
    )


def probes(setup: Setup) -> Iterator[Rival]:
    """Yield linear probes behind several numbers of blocks.

    They read the hidden state of the prompt's last token.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = setup.load()
    blocks = len(block_list(model)[1])
    wanted = depths(model, PROBE_SHARES)
    fitted, searched = (
        hidden_states(model, wanted, setup.task.splits[split], setup.batch_tokens)
        for split in ("calibration", "search")
    )

    def make(strength: float) -> Any:
        return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=MOST_ITERATIONS))

    for depth in reversed(wanted):  # each cuts the model of the one before
        keep_first(model, depth)
        classifier, strength = _chosen(setup, make, fitted[depth], searched[depth], PROBE_STRENGTHS)

        def score(request: ScoreRequest, depth: int = depth, classifier: Any = classifier) -> Scores:
            examples = _asked(setup, request)
            states = hidden_states(model, [depth], examples, setup.batch_tokens)
            return _scores(examples, classifier, states[depth])

        yield Rival(
            name=f"linear probe on {depth} of {blocks} blocks",
            settings={"blocks": depth, "C": strength},
            size_bytes=stored_bytes(model.base_model) + len(pickle.dumps(classifier)),
            score=score,
        )


def _chosen(
    setup: Setup, make: Callable[[float], Any], fitted_EF: Any, searched_EF: Any, strengths: Sequence[float]
) -> tuple[Any, float]:
    """Fit a classifier at each strength; return the best and its strength.

    The best gives the right answers of the search split the highest likelihood.

    Raises:
        ScoringError: The calibration records have one label.
    """
    labels_E = [example.label for example in setup.task.splits["calibration"]]
    if len(set(labels_E)) < 2:
        raise ScoringError("all calibration records have the same label; give records of every label")
    fitted = [(make(strength).fit(fitted_EF, labels_E), strength) for strength in strengths]
    examples = setup.task.splits["search"]
    return min(fitted, key=lambda one: float(_scores(examples, one[0], searched_EF).nll_nats.mean()))


def _scores(examples: Sequence[Example], classifier: Any, x_EF: Any) -> Scores:
    return class_scores(examples, classifier.classes_, classifier.predict_log_proba(x_EF))


def _asked(setup: Setup, request: ScoreRequest) -> Sequence[Example]:
    return setup.task.splits[request.split][request.start : request.stop]


def _texts(setup: Setup, examples: Sequence[Example]) -> list[str]:
    return [
        str(setup.tokenizer.decode(list(example.prompt_ids), skip_special_tokens=True))
        for example in examples
    ]
