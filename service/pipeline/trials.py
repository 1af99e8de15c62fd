"""Scorer of a search's trials, on the first examples of the search split."""

from collections.abc import Callable, Iterator, Sequence

from ranksieve.search.errors import ScoringError
from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.service.pipeline.scoring import TaskScorer
from ranksieve.workers.types.scores import Failure, ScoreRequest, Scores


class TrialScorer:
    """Scores the trials of one job.

    Args:
        scorer: Scorer of the job, which has scored the dense model on the search split.
    """

    def __init__(self, scorer: TaskScorer) -> None:
        self._scorer = scorer

    def outcomes(self, ask: Callable[[int], Sequence[Trial]], confidence: float) -> Iterator[Outcome]:
        """Score trials while there are any.

        Args:
            ask: Returns at most that many trials; called again after every outcome.
            confidence: Confidence of the upper bound of each drop, see `foreseen`.

        Yields:
            Outcomes in the order in which they finish.
        """

        def take(idle: int) -> list[tuple[Trial, ScoreRequest]]:
            return [(trial, self._request(trial)) for trial in ask(idle)]

        for trial, result in self._scorer.runner.stream("score", take):
            yield self._outcome(trial, result, confidence)

    def _request(self, trial: Trial) -> ScoreRequest:
        ranks = self._scorer.space.ranks(trial.genome)
        return ScoreRequest(ranks=ranks, split="search", start=0, stop=trial.examples)

    def _outcome(self, trial: Trial, result: object, confidence: float) -> Outcome:
        if isinstance(result, Failure):
            return Outcome.failed(trial, result.reason)
        assert isinstance(result, Scores)
        try:
            return Outcome(
                genome=trial.genome,
                examples=trial.examples,
                kl_nats=float(result.kl_nats.mean()),
                loss_nats=self._scorer.loss(result, "search"),
                drop_points=self._scorer.drop_points(result, "search"),
                drop_bound=self._scorer.foreseen(result, confidence).upper,
                metric=self._scorer.metric(result),
                tokens=result.tokens,
                seconds=result.seconds,
            )
        except ScoringError as error:
            return Outcome.failed(trial, str(error), tokens=result.tokens, seconds=result.seconds)
