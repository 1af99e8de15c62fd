"""Refits the finalists to the inputs their own matrices see, and keeps what makes a finalist better."""

from collections.abc import Sequence
from dataclasses import replace

from search.space import Genome, SearchSpace
from service.events import EventType
from service.joblog import JobLog
from service.scoring import Candidate, TaskScorer
from service.spec import JobSpec
from workers.scores import Failure

SPLIT = "search"
"""Tells whether a refit is better: it has chosen the finalists already, so the confirm split stays fresh."""


def refit_finalists(
    spec: JobSpec, space: SearchSpace, scorer: TaskScorer, finalists: Sequence[Genome], log: JobLog
) -> list[Candidate]:
    """The finalists in their order, each as the search knew it or refit, whichever loses less on the search split."""
    plain = [Candidate(genome=genome) for genome in finalists]
    if spec.projection.refit is None:
        return plain
    folder = log.directory / "refit"
    folder.mkdir(parents=True, exist_ok=True)
    refit = scorer.refit(finalists, spec.projection.refit, folder, log.progress("refit"))
    pairs = [(b, a) for b, a in zip(plain, refit, strict=True) if isinstance(a, Candidate)]
    scored = iter(_scored(scorer, [candidate for pair in pairs for candidate in pair]))
    chosen: list[Candidate] = []
    for before, after in zip(plain, refit, strict=True):
        if isinstance(after, Failure):
            log.event(EventType.CANDIDATE_FAILED, reason=after.reason, generation=None)
            chosen.append(before)
        else:
            chosen.append(_better(space, scorer, next(scored), next(scored), log))
    return chosen


def _scored(scorer: TaskScorer, candidates: Sequence[Candidate]) -> list[Candidate]:
    """With their scores on the search split; without, those that cannot be scored."""
    return [
        candidate if isinstance(scores, Failure) else replace(candidate, search=scores)
        for candidate, scores in zip(candidates, scorer.score_candidates(candidates, SPLIT), strict=True)
    ]


def _better(
    space: SearchSpace, scorer: TaskScorer, before: Candidate, after: Candidate, log: JobLog
) -> Candidate:
    loss_before, loss_after = (
        None if candidate.search is None else scorer.loss(candidate.search, SPLIT)
        for candidate in (before, after)
    )
    kept = loss_after is not None and (loss_before is None or loss_after < loss_before)
    log.event(
        EventType.FINALIST_REFIT,
        kept_share=space.kept_share(before.genome),
        loss_before=loss_before,
        loss_after=loss_after,
        kept=kept,
    )
    return after if kept else before
