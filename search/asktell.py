"""The counter between a search and its scorers: trials go out, outcomes come back, all are counted."""

from collections.abc import Sequence

from search.archive import Memo
from search.errors import ConflictError
from search.outcome import Outcome, Trial


class Counter:
    """Holds the trials on offer and checks that what comes back answers them.

    Args:
        memo: Where outcomes are kept.
        evaluations: Scorings before this run.
        tokens: Tokens before this run.
    """

    def __init__(self, memo: Memo, *, evaluations: int = 0, tokens: int = 0) -> None:
        self.memo, self.evaluations, self.tokens = memo, evaluations, tokens
        self._trials: list[Trial] = []
        self._asked = False

    @property
    def empty(self) -> bool:
        """Whether nothing is on offer."""
        return not self._trials

    def offer(self, trials: Sequence[Trial]) -> bool:
        """Put trials on offer in place of those before; returns whether there are any."""
        self._trials, self._asked = list(trials), False
        return bool(trials)

    def ask(self) -> list[Trial]:
        """Hand out the trials on offer, once.

        Raises:
            ConflictError: They have been handed out and not been told.
        """
        if self._asked:
            raise ConflictError(
                f"tell the outcomes of the last {len(self._trials)} trials before asking again"
            )
        self._asked = bool(self._trials)
        return list(self._trials)

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        """Keep and count the outcomes of the trials handed out.

        Raises:
            ConflictError: Nothing was handed out, or these are not its outcomes, one each and in order.
        """
        if not self._asked:
            raise ConflictError("nothing was asked for; call ask before tell")
        if len(outcomes) != len(self._trials):
            raise ConflictError(f"asked for {len(self._trials)} outcomes, told {len(outcomes)}")
        for position, (trial, outcome) in enumerate(zip(self._trials, outcomes, strict=True)):
            if outcome.trial != trial:
                raise ConflictError(f"outcome {position} is of another trial; tell them in the order of ask")
        for outcome in outcomes:
            self.memo.add(outcome)
        self.evaluations += len(outcomes)
        self.tokens += sum(outcome.tokens for outcome in outcomes)
        self._trials, self._asked = [], False
