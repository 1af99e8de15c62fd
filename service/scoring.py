"""Scores genomes and the dense model on the task through the dispatcher, and turns arrays into numbers.

Long splits are cut into chunks, so that every actor has work; the cut is fixed, so results do not depend on
the number of actors.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from search.confirmation import (
    RESAMPLES,
    DropInterval,
    mean_interval,
    paired_drop,
    perplexity_rise,
    risk_of_drop,
    risk_of_rise,
)
from search.errors import ScoringError
from search.matrix import DENSE
from search.outcome import Outcome, Trial
from search.space import Genome, SearchSpace
from workers.metrics import METRIC_NAMES, drop_points
from workers.plan import EncodedTask
from workers.scores import (
    Beliefs,
    Failure,
    Floats,
    Reaction,
    ReactionRequest,
    RefitRequest,
    Request,
    ScoreRequest,
    Scores,
    first,
    join_beliefs,
    join_reactions,
    join_scores,
    metric_of,
)

CHUNK = 256
SEARCH_RESAMPLES = 1000

REFIT_EXAMPLES = 512
"""Of the calibration split at most: a left factor has far fewer unknowns per output than these have tokens."""

REFIT_TIMEOUTS = 8 * REFIT_EXAMPLES // CHUNK
"""A refit may take as long as so many scorings of a chunk: it costs about five forward passes over its examples."""

REACTION_CHUNK = 64
"""Examples of a request: small, so that all actors have work; fixed, so that sums do not depend on their number."""

REACTION_TIMEOUTS = 4
"""A dense pass, one of the candidate, and its way back."""

Report = Callable[[int, int], None]
Key = TypeVar("Key")


class Runner(Protocol):
    """What scores requests: `workers.dispatcher.Dispatcher`, or a fake."""

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
    """A genome, and the file with left factors and biases of its own, where it was refit.

    `search`: what it scored on the search split outside the search, which knows genomes as they were.
    """

    genome: Genome
    refit: Path | None = None
    search: Scores | None = None


class TaskScorer:
    """Scores the genomes of one job on one task.

    Args:
        runner: Runs the requests.
        space: Turns genomes into ranks.
        task: The encoded task.
        kl_weight: How much of the loss is KL to the dense model; the rest is the rise of the right answers'
            negative log-likelihood.
    """

    def __init__(self, runner: Runner, space: SearchSpace, task: EncodedTask, kl_weight: float) -> None:
        self._runner = runner
        self._space = space
        self._task = task
        self._kl_weight = kl_weight
        self.dense: dict[str, Scores] = {}
        self._beliefs: dict[str, Beliefs] = {}
        self._scored: dict[tuple[Genome, bool], Scores] = {}
        """By `outcomes`, the longest on some first examples of the search split, and whether only the loss is told."""

    def score_dense(self, split: str, report: Report = lambda done, total: None) -> Scores:
        """Scores the dense model on a split; candidates are measured against it from then on.

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
        """Scores trials on the first examples of the search split, as long as there are any.

        Examples on which a trial's genome was scored before are not run again, unless that was in a process before this
        one, or only for the loss. They are then run by themselves, as they were: the numbers are the same to the last
        bit. Where answers have to be written for the metric, screening does without.

        Args:
            ask: Gives that many trials or fewer; asked again after every outcome.
            confidence: Of the upper bound of each drop, see `foreseen`.

        Yields:
            Outcomes in the order in which they are done.
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
        """Refits genomes on the first `REFIT_EXAMPLES` of the calibration split.

        Args:
            candidates: What to refit, and the file that what is fitted goes to; the actors write there.
            dense_share: Of the dense flow in the target, 0..1.
            report: Told how many are done, of how many.

        Returns:
            Why each one could not be refit; None where it was.
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

    def react(self, genome: Genome, examples: range, window: int) -> Reaction | Failure:
        """How the loss of a genome reacts to its next components, on each of some calibration examples.

        Args:
            genome: Any.
            examples: Which, successive ones.
            window: Components on either side of each rank.
        """
        requests = [
            ReactionRequest(
                ranks=self._space.ranks(genome),
                start=start,
                stop=min(start + REACTION_CHUNK, examples.stop),
                kl_weight=self._kl_weight,
                window=window,
            )
            for start in range(examples.start, examples.stop, REACTION_CHUNK)
        ]
        parts = self._runner.run("react", requests, timeouts=REACTION_TIMEOUTS)
        failures = [part for part in parts if isinstance(part, Failure)]
        if failures:
            return failures[0]
        return join_reactions([part for part in parts if isinstance(part, Reaction)])

    def score_candidates(
        self, candidates: Sequence[Candidate], split: str, report: Report = lambda done, total: None
    ) -> list[Scores | Failure]:
        """Scores candidates on a whole split."""
        per_candidate = [
            self._requests(self._space.ranks(candidate.genome), split, candidate.refit)
            for candidate in candidates
        ]
        requests = [request for part in per_candidate for request in part]
        results = iter(self._run("score", requests, report))
        return [_joined([next(results) for _ in part]) for part in per_candidate]

    @property
    def metric_name(self) -> str:
        """Of the task."""
        return METRIC_NAMES[self._task.kind]

    def metric(self, scores: Scores) -> float:
        """The task metric of some scores."""
        return metric_of(self._task.kind, scores)

    def loss(self, scores: Scores, split: str) -> float:
        """What a search minimises: the mean of `losses`."""
        return float(self.losses(scores, split).mean())

    def losses(self, scores: Scores, split: str) -> Floats:
        """The loss on each example, in nats per answer token: see `kl_weight`.

        The KL has little noise but does not know right from wrong: it weighs a shift towards the wrong answers
        like one towards the right ones. The likelihood of the right answers tells them apart.
        """
        dense = self._dense_like(scores, split)
        rise_E = (scores.nll_nats - dense.nll_nats) / dense.answer_tokens
        losses_E: Floats = self._kl_weight * scores.kl_nats + (1 - self._kl_weight) * rise_E
        return losses_E

    def interval(self, scores: Scores) -> list[float] | None:
        """A 95 % interval of the metric; None for `lm`, where none is told."""
        if self._task.kind == "lm":
            return None
        return list(mean_interval(scores.quality))

    def foreseen(self, scores: Scores, confidence: float) -> DropInterval:
        """How many points a candidate loses on the first examples of the search split, as the confirm split would tell.

        What is looked for is a model that will be let through there. The few examples of the search split often bound
        no model tightly enough, however good.
        """
        drop = self.drop(scores, "search", confidence, seed=0, resamples=SEARCH_RESAMPLES)
        return self._as_confirmed(drop, len(scores.quality))

    def drop(
        self, scores: Scores, split: str, confidence: float, seed: int, resamples: int = RESAMPLES
    ) -> DropInterval:
        """How many points a candidate loses against dense on the first examples of a split, with intervals."""
        return self._drop(*self._measured(scores, split), confidence, seed, resamples)

    def risk(self, scores: Scores, split: str, points: float, seed: int) -> float:
        """The least risk at which a candidate can be said to lose at most so many points, from these examples."""
        measure = risk_of_rise if self._task.kind == "lm" else risk_of_drop
        return measure(*self._measured(scores, split), points, seed=seed)

    def drop_of(self, reaction: Reaction, examples: range, confidence: float) -> DropInterval:
        """How many points a genome loses on the calibration examples that it has reacted on; not for `generate`.

        Bounds are as the confirm split would give them, see `foreseen`.
        """
        chosen = self._task.splits["calibration"][examples.start : examples.stop]
        tokens = sum(example.answer_tokens for example in chosen) / len(chosen)
        measured = self._compared(reaction.dense_quality, reaction.quality, tokens)
        drop = self._drop(*measured, confidence, seed=0, resamples=SEARCH_RESAMPLES)
        return self._as_confirmed(drop, len(chosen))

    def _drop(
        self, dense_E: Floats, candidate_E: Floats, confidence: float, seed: int, resamples: int
    ) -> DropInterval:
        measure = perplexity_rise if self._task.kind == "lm" else paired_drop
        return measure(dense_E, candidate_E, confidence=confidence, seed=seed, resamples=resamples)

    def _measured(self, scores: Scores, split: str) -> tuple[Floats, Floats]:
        """What is compared of both models on the first examples of a split."""
        dense = self._dense_like(scores, split)
        return self._compared(dense.quality, scores.quality, float(dense.answer_tokens.mean()))

    def _compared(self, dense_E: Floats, candidate_E: Floats, mean_tokens: float) -> tuple[Floats, Floats]:
        """The `quality` of both; of `lm` the loss per answer token, of which there are so many in the mean."""
        if self._task.kind == "lm":
            return -dense_E / mean_tokens, -candidate_E / mean_tokens
        return dense_E, candidate_E

    def _as_confirmed(self, drop: DropInterval, examples: int) -> DropInterval:
        """The bounds of as many examples as will confirm, one of which counts as lost, see `risk_of_drop`."""
        confirm = len(self._task.splits["confirm"])
        foreseen = drop.of_as_many(confirm / examples)
        return foreseen if self._task.kind == "lm" else foreseen.with_one_lost(confirm)

    def _run(
        self, method: str, requests: Sequence[Request], report: Report, timeouts: float = 1.0
    ) -> list[object]:
        report(0, len(requests))
        return self._runner.run(method, requests, lambda done: report(done, len(requests)), timeouts)

    def _dense_like(self, scores: Scores, split: str) -> Scores:
        """The dense model's scores on the same examples, the first of the split."""
        return first(self.dense[split], len(scores.quality))

    def _known(self, trial: Trial) -> Scores | None:
        """What was scored of a trial's genome in the race before it, as far as this process knows of it."""
        kinds = (False, True) if self._loss_only(trial) else (False,)
        found = [self._scored[trial.genome, kind] for kind in kinds if (trial.genome, kind) in self._scored]
        longest = max(found, key=lambda scores: len(scores.quality), default=None)
        have = 0 if longest is None else len(longest.quality)
        start = max((cut for cut in trial.cuts if cut <= min(have, trial.known)), default=0)
        return None if longest is None or not start else first(longest, start)

    def _keep(self, genome: Genome, scores: Scores) -> None:
        """Remembers scores that others of the genome may go on from; nothing follows on all of the split."""
        place = genome, scores.unwritten
        known, total = self._scored.get(place), len(self._task.splits["search"])
        if (0 if known is None else len(known.quality)) < len(scores.quality) < total:
            self._scored[place] = scores

    def _request(self, trial: Trial, scores: Scores | None) -> ScoreRequest:
        """The next of a trial's examples behind those that were scored, up to its next cut, or to its end."""
        start = 0 if scores is None else len(scores.quality)
        return ScoreRequest(
            ranks=self._space.ranks(trial.genome),
            split="search",
            start=start,
            stop=next(end for end in (*trial.cuts, trial.examples) if end > start),
            loss_only=self._loss_only(trial),
        )

    def _loss_only(self, trial: Trial) -> bool:
        return trial.screening and self._task.kind == "generate"

    def _requests(self, ranks: tuple[int, ...], split: str, refit: Path | None = None) -> list[ScoreRequest]:
        total = len(self._task.splits[split])
        return [
            ScoreRequest(
                ranks=ranks,
                split=split,
                start=start,
                stop=min(start + CHUNK, total),
                refit=refit,
            )
            for start in range(0, total, CHUNK)
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


def _joined(parts: Sequence[object]) -> Scores | Failure:
    for part in parts:
        if isinstance(part, Failure):
            return part
    return join_scores([part for part in parts if isinstance(part, Scores)])
