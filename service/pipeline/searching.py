"""Search of a job: trials go to the scorers, and outcomes come back.

The search is saved after every generation. Paused or killed, it continues from its last saved generation and ends
with the same result. A stop ends it between two generations, with the result of a job with that many generations.
"""

import logging
from collections.abc import Sequence

from ranksieve.search.evolution.evolution import Evolution
from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.space.prices import Energies
from ranksieve.service.job.events import EventType
from ranksieve.service.pipeline.search_plan import SearchPlan
from ranksieve.service.pipeline.trials import TrialScorer
from ranksieve.service.run.joblog import JobLog

logger = logging.getLogger(__name__)

PROGRESS_STEPS = 100
"""Most progress events of a search.

Each is a transaction, and hundreds of actors are fast.
"""


def search(
    plan: SearchPlan,
    energies: Energies,
    scorer: TrialScorer,
    confidence: float,
    log: JobLog,
) -> Evolution:
    """Search from the last saved generation until the search ends or is stopped.

    Args:
        plan: What is searched.
        energies: Per matrix, squared singular values in units of the task loss, descending.
        scorer: Scores the trials.
        confidence: Confidence of the upper bound of each drop.
        log: The job.

    Returns:
        The search; with at least one generation retired, the seeds.

    Raises:
        CancelledError: The job should end at once.
    """
    searching = _Searching(plan, _start_or_resume(plan, energies, log), log)
    searching.run(scorer, confidence)
    return searching.evolution


class _Searching:
    def __init__(self, plan: SearchPlan, evolution: Evolution, log: JobLog) -> None:
        self.evolution = evolution
        self._plan, self._log = plan, log
        self._outcomes = evolution.evaluations

    @property
    def _over(self) -> bool:
        """Whether to ask for no more trials.

        A stopped search still scores its seeds, to have a result.
        """
        return self.evolution.finished or (self._log.stopping.is_set() and self.evolution.generation >= 0)

    def run(self, scorer: TrialScorer, confidence: float) -> None:
        """Score until the search is over."""
        self._keep_retired()
        for outcome in scorer.outcomes(self._ask, confidence):
            self._tell(outcome)

    def _ask(self, limit: int) -> Sequence[Trial]:
        """Trials to score; none once the search is over."""
        return [] if self._over else self.evolution.ask(limit)

    def _tell(self, outcome: Outcome) -> None:
        self._outcomes += 1
        done, total = self._outcomes, self._plan.settings.max_evaluations
        if PROGRESS_STEPS * done // total > PROGRESS_STEPS * (done - 1) // total:
            self._log.event(EventType.PHASE_PROGRESS, phase="search", done=done, total=total)
        self.evolution.tell([outcome])
        self._keep_retired()

    def _keep_retired(self) -> None:
        evolution, log = self.evolution, self._log
        while (record := evolution.retire()) is not None:
            for outcome in record.outcomes:
                if outcome.failure is not None:
                    log.event(
                        EventType.CANDIDATE_FAILED, reason=outcome.failure, generation=record.generation
                    )
            log.generation(record.to_json(), record.candidates(self._plan.space), evolution.state())


def _start_or_resume(plan: SearchPlan, energies: Energies, log: JobLog) -> Evolution:
    state = log.search_state()
    if state is not None:
        logger.info("job %s continues from generation %s", log.job.id, state["generation"])
    return Evolution(
        plan.space,
        energies,
        plan.objective,
        plan.settings,
        seeds=plan.seeds,
        memo=[] if state is None else _memo(log, plan.settings.full),
        state=state,
    )


def _memo(log: JobLog, examples: int) -> list[Outcome]:
    """Return every saved outcome; all are of as many examples."""
    return [Outcome.from_json({**row, "examples": examples}) for row in log.memo()]
