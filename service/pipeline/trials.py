"""Scorer of a search's trials, on the first examples of the search split.

Longer scorings of a genome continue shorter ones.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ranksieve.search.errors import ScoringError
from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.space.space import Genome
from ranksieve.service.pipeline.scoring import TaskScorer
from ranksieve.workers.types.scores import Failure, ScoreRequest, Scores, first, join_scores

MOST_SCORED = 20_000
"""Most genomes whose scores on first examples are remembered, the newest.

Scores take a few kilobytes each. The number exceeds the genomes of simultaneous races. Forgotten scores are computed
again if needed.
"""


class TrialScorer:
    """Scores the trials of one job.

    Args:
        scorer: Scorer of the job, which has scored the dense model on the search split.
    """

    def __init__(self, scorer: TaskScorer) -> None:
        self._scorer = scorer
        self._scored: dict[tuple[Genome, bool], Scores] = {}
        """Longest scores on first examples.

        The second part of a key says whether only the loss was measured.
        """

    def outcomes(self, ask: Callable[[int], Sequence[Trial]], confidence: float) -> Iterator[Outcome]:
        """Score trials on the first examples of the search split, while there are any.

        Examples on which a trial's genome was scored before are not run again, unless that was in an earlier process or
        only for the loss. They are then run by themselves, as before, so the numbers are the same to the last bit. If
        the metric needs written answers, screening measures the loss only.

        Args:
            ask: Returns at most that many trials; called again after every outcome.
            confidence: Confidence of the upper bound of each drop, see `foreseen`.

        Yields:
            Outcomes in the order in which they finish.
        """
        begun: deque[tuple[Trial, Scores]] = deque()  # scored on their first examples, not on the others

        def take(idle: int) -> list[tuple[tuple[Trial, Scores | None], ScoreRequest]]:
            parts: list[tuple[Trial, Scores | None]] = [begun.popleft() for _ in range(min(idle, len(begun)))]
            parts += [(trial, self._known(trial)) for trial in ask(idle - len(parts))]
            return [((trial, scores), self._request(trial, scores)) for trial, scores in parts]

        for (trial, scores), result in self._scorer.runner.stream("score", take):
            if isinstance(result, Scores):
                have = 0 if scores is None else len(scores.quality)
                if have < trial.known:  # run again, as it was
                    result = replace(result, tokens=0, seconds=0.0)
                result = result if scores is None else join_scores([scores, result])
                self._keep(trial.genome, result)
                if len(result.quality) < trial.examples:
                    begun.append((trial, result))
                    continue
            yield self._outcome(trial, result, confidence)

    def _known(self, trial: Trial) -> Scores | None:
        """Return known scores of a trial's genome from the race before, or None."""
        kinds = (False, True) if self._loss_only(trial) else (False,)
        found = [self._scored[trial.genome, kind] for kind in kinds if (trial.genome, kind) in self._scored]
        longest = max(found, key=lambda scores: len(scores.quality), default=None)
        if longest is None or not 0 < trial.cut <= min(len(longest.quality), trial.known):
            return None
        return first(longest, trial.cut)

    def _keep(self, genome: Genome, scores: Scores) -> None:
        """Remember scores that later trials of the genome may continue.

        Nothing follows scores on the whole split.
        """
        place = genome, scores.unwritten
        known, total = self._scored.get(place), len(self._scorer.task.splits["search"])
        if (0 if known is None else len(known.quality)) < len(scores.quality) < total:
            self._scored.pop(place, None)  # the newest come last
            self._scored[place] = scores
            if len(self._scored) > MOST_SCORED:
                del self._scored[next(iter(self._scored))]

    def _request(self, trial: Trial, scores: Scores | None) -> ScoreRequest:
        """Return the request for a trial's next examples, up to its cut or its end."""
        start = 0 if scores is None else len(scores.quality)
        return ScoreRequest(
            ranks=self._scorer.space.ranks(trial.genome),
            split="search",
            start=start,
            stop=trial.cut if start < trial.cut else trial.examples,
            loss_only=self._loss_only(trial),
        )

    def _loss_only(self, trial: Trial) -> bool:
        return trial.screening and self._scorer.task.kind == "generate"

    def _outcome(self, trial: Trial, result: object, confidence: float) -> Outcome:
        if isinstance(result, Failure):
            return Outcome.failed(trial, result.reason)
        assert isinstance(result, Scores)
        try:
            outcome = Outcome(
                genome=trial.genome,
                examples=trial.examples,
                kl_nats=float(result.kl_nats.mean()),
                loss_nats=self._scorer.loss(result, "search"),
                tokens=result.tokens,
                seconds=result.seconds,
            )
            if self._loss_only(trial):
                return outcome
            return replace(
                outcome,
                drop_points=self._scorer.drop_points(result, "search"),
                drop_bound=self._scorer.foreseen(result, confidence).upper,
                metric=self._scorer.metric(result),
            )
        except ScoringError as error:
            return Outcome.failed(trial, str(error), tokens=result.tokens, seconds=result.seconds)
