"""Scorer of genomes and of the dense model, through the dispatcher.

Long splits are cut into chunks, so that every actor has work. The cut is fixed, so results do not depend on the
number of actors.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from ranksieve.search.errors import ScoringError
from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.space.matrix import DENSE
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.service.job.events import EventType
from ranksieve.service.pipeline.measures import Measures
from ranksieve.service.run.joblog import JobLog
from ranksieve.workers.types.metrics import drop_points
from ranksieve.workers.types.plan import EncodedTask
from ranksieve.workers.types.scores import (
    Beliefs,
    Failure,
    LossSlopes,
    RefitRequest,
    Request,
    ScoreRequest,
    Scores,
    SlopesRequest,
    first,
    join_beliefs,
    join_scores,
    join_slopes,
)

CHUNK = 256

REFIT_EXAMPLES = 512
"""Most calibration records of a refit.

A left factor has far fewer unknowns per output than these have tokens.
"""

REFIT_TIMEOUTS = 8 * REFIT_EXAMPLES // CHUNK
"""Time limit of a refit, in scorings of a chunk.

A refit costs about five forward passes over its examples.
"""

SLOPES_CHUNK = 64
"""Examples of a request for slopes.

The number is small, so that all actors have work, and fixed, so that sums do not depend on their number.
"""

SLOPES_TIMEOUTS = 4
"""Time limit of slopes, in scorings of a chunk.

They take a dense pass, one of the candidate, and its backward pass.
"""

MOST_SCORED = 20_000
"""Most genomes whose scores on first examples are remembered, the newest.

Scores take a few kilobytes each. The number exceeds the genomes of simultaneous races. Forgotten scores are computed
again if needed.
"""

Report = Callable[[int, int], None]
Key = TypeVar("Key")


class Runner(Protocol):
    """Runner of requests: `workers.cluster.dispatcher.Dispatcher`, or a fake."""

    def run(
        self,
        method: str,
        requests: Sequence[Request],
        on_done: Callable[[int], None] = ...,
        timeouts: float = ...,
    ) -> list[object]: ...

    def stream(
        self, method: str, take: Callable[[int], Iterable[tuple[Key, ScoreRequest]]]
    ) -> Iterator[tuple[Key, object]]: ...

    def set_beliefs(self, beliefs: object) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A genome, and the file of its own left factors and biases if it was refit.

    `search`: scores on the search split from outside the search, which knows only genomes without a refit.
    """

    genome: Genome
    refit: Path | None = None
    search: Scores | None = None


class TaskScorer(Measures):
    """Scores the genomes of one job on one task.

    Args:
        runner: Runs the requests.
        space: Turns genomes into ranks.
        task: See `Measures`.
        kl_weight: See `Measures`.
    """

    def __init__(self, runner: Runner, space: SearchSpace, task: EncodedTask, kl_weight: float) -> None:
        super().__init__(task, kl_weight)
        self._runner, self._space = runner, space
        self._beliefs: dict[str, Beliefs] = {}
        self._scored: dict[tuple[Genome, bool], Scores] = {}
        """Longest scores on first examples of the search split, from `outcomes`.

        The second part of a key says whether only the loss was measured.
        """

    def score_dense(self, split: str, report: Report = lambda done, total: None) -> Scores:
        """Score the dense model on a split, as the reference for candidates.

        Raises:
            ScoringError: The dense model cannot be scored.
        """
        ranks = (DENSE,) * len(self._space.matrices)
        requests = self._requests(ranks, split)
        parts = self._run("score_dense", requests, report)
        good = [part for part in parts if isinstance(part, tuple)]
        if len(good) != len(parts):
            reasons = [part.reason for part in parts if isinstance(part, Failure)]
            raise ScoringError(f"the dense model cannot be scored on {split}: {reasons[0]}")
        self.dense[split] = join_scores([scores for scores, _ in good])
        self._beliefs[split] = join_beliefs([beliefs for _, beliefs in good])
        self._runner.set_beliefs(dict(self._beliefs))
        return self.dense[split]

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

        for (trial, scores), result in self._runner.stream("score", take):
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

    def refit(
        self, candidates: Sequence[Candidate], dense_share: float, report: Report
    ) -> list[Failure | None]:
        """Refit genomes on the first `REFIT_EXAMPLES` of the calibration split.

        Args:
            candidates: Candidates to refit, with the files that the actors write the result to.
            dense_share: Share of the dense model's hidden states in the target, 0..1.
            report: Progress callback: (done, total).

        Returns:
            The failure of each candidate, or None.
        """
        examples = min(len(self._task.splits["calibration"]), REFIT_EXAMPLES)
        requests = [
            RefitRequest(
                ranks=self._space.ranks(candidate.genome),
                examples=examples,
                dense_share=dense_share,
                file=candidate.refit,
                answer_bias=self._kl_weight < 1,
            )
            for candidate in candidates
            if candidate.refit is not None
        ]
        results = self._run("refit", requests, report, REFIT_TIMEOUTS)
        return [result if isinstance(result, Failure) else None for result in results]

    def measure_slopes(self, genome: Genome, examples: range, window: int) -> LossSlopes | Failure:
        """Measure the slopes of a genome's loss on each of some calibration examples.

        Slopes are towards its next components.

        Args:
            genome: Any genome.
            examples: Range of calibration examples.
            window: Components on either side of each rank.
        """
        requests = [
            SlopesRequest(
                ranks=self._space.ranks(genome),
                start=start,
                stop=min(start + SLOPES_CHUNK, examples.stop),
                kl_weight=self._kl_weight,
                window=window,
            )
            for start in range(examples.start, examples.stop, SLOPES_CHUNK)
        ]
        parts = self._runner.run("measure_slopes", requests, timeouts=SLOPES_TIMEOUTS)
        failures = [part for part in parts if isinstance(part, Failure)]
        if failures:
            return failures[0]
        return join_slopes([part for part in parts if isinstance(part, LossSlopes)])

    def half(self, split: str) -> int:
        """Return how many first examples of a split are scored separately, see `half_of`."""
        return half_of(len(self._task.splits[split]))

    def score_candidates(
        self,
        candidates: Sequence[Candidate],
        split: str,
        report: Report = lambda done, total: None,
        examples: slice = slice(None),
    ) -> list[Scores | Failure]:
        """Score candidates on a split, or on some of its examples.

        `examples` must be cut at chunk boundaries.
        """
        per_candidate = [
            self._requests(self._space.ranks(candidate.genome), split, candidate.refit, examples)
            for candidate in candidates
        ]
        requests = [request for part in per_candidate for request in part]
        results = iter(self._run("score", requests, report))
        return [_joined([next(results) for _ in part]) for part in per_candidate]

    def _run(
        self, method: str, requests: Sequence[Request], report: Report, timeouts: float = 1.0
    ) -> list[object]:
        report(0, len(requests))
        return self._runner.run(method, requests, lambda done: report(done, len(requests)), timeouts)

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
        known, total = self._scored.get(place), len(self._task.splits["search"])
        if (0 if known is None else len(known.quality)) < len(scores.quality) < total:
            self._scored.pop(place, None)  # the newest come last
            self._scored[place] = scores
            if len(self._scored) > MOST_SCORED:
                del self._scored[next(iter(self._scored))]

    def _request(self, trial: Trial, scores: Scores | None) -> ScoreRequest:
        """Return the request for a trial's next examples, up to its cut or its end."""
        start = 0 if scores is None else len(scores.quality)
        return ScoreRequest(
            ranks=self._space.ranks(trial.genome),
            split="search",
            start=start,
            stop=trial.cut if start < trial.cut else trial.examples,
            loss_only=self._loss_only(trial),
        )

    def _loss_only(self, trial: Trial) -> bool:
        return trial.screening and self._task.kind == "generate"

    def _requests(
        self,
        ranks: tuple[int, ...],
        split: str,
        refit: Path | None = None,
        examples: slice = slice(None),
    ) -> list[ScoreRequest]:
        begin, end, _ = examples.indices(len(self._task.splits[split]))
        return [
            ScoreRequest(
                ranks=ranks,
                split=split,
                start=start,
                stop=min(start + CHUNK, end),
                refit=refit,
            )
            for start in range(begin, end, CHUNK)
        ]

    def _outcome(self, trial: Trial, result: object, confidence: float) -> Outcome:
        if isinstance(result, Failure):
            return Outcome.failed(trial, result.reason)
        assert isinstance(result, Scores)
        try:
            outcome = Outcome(
                genome=trial.genome,
                examples=trial.examples,
                kl_nats=float(result.kl_nats.mean()),
                loss_nats=self.loss(result, "search"),
                tokens=result.tokens,
                seconds=result.seconds,
            )
            if self._loss_only(trial):
                return outcome
            metric, dense_metric = self.metric(result), self.metric(self._dense_like(result, "search"))
            return replace(
                outcome,
                drop_points=drop_points(self._task.kind, dense_metric, metric),
                drop_bound=self.foreseen(result, confidence).upper,
                metric=metric,
            )
        except ScoringError as error:
            return Outcome.failed(trial, str(error), tokens=result.tokens, seconds=result.seconds)


def announce_dense(scorer: TaskScorer, splits: Iterable[str], log: JobLog) -> None:
    """Score the dense model on splits and record its metric on each."""
    for split in splits:
        scores = scorer.score_dense(split, log.progress("dense"))
        log.event(
            EventType.DENSE_SCORED,
            split=split,
            metric=scorer.metric(scores),
            metric_name=scorer.metric_name,
        )


def half_of(examples: int) -> int:
    """Return the size of the first half in whole chunks; 0 if there is one chunk."""
    return CHUNK * (math.ceil(examples / CHUNK) // 2)


def _joined(parts: Sequence[object]) -> Scores | Failure:
    for part in parts:
        if isinstance(part, Failure):
            return part
    return join_scores([part for part in parts if isinstance(part, Scores)])
