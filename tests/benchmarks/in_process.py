"""Runs score requests in this process, one after another: what `cluster.dispatcher.Dispatcher` does on actors."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from ranksieve.workers.types.scores import Beliefs, ScoreRequest

Key = TypeVar("Key")


class RequestScorer(Protocol):
    """`workers.scoring.scorer.Scorer`, or a synthetic one."""

    def set_beliefs(self, beliefs: Mapping[str, Beliefs]) -> None: ...


class InProcess:
    """A runner for `service.pipeline.scoring.TaskScorer`."""

    def __init__(self, scorer: RequestScorer) -> None:
        self._scorer = scorer

    def run(
        self,
        method: str,
        requests: Sequence[ScoreRequest],
        on_done: Callable[[int], None] = lambda done: None,
    ) -> list[object]:
        results: list[object] = []
        for done, request in enumerate(requests, start=1):
            results.append(self._call(method, request))
            on_done(done)
        return results

    def stream(
        self, method: str, take: Callable[[int], Iterable[tuple[Key, ScoreRequest]]]
    ) -> Iterator[tuple[Key, object]]:
        while taken := list(take(1)):
            for key, request in taken:
                yield key, self._call(method, request)

    def set_beliefs(self, beliefs: Any) -> None:
        self._scorer.set_beliefs(beliefs)

    def _call(self, method: str, request: ScoreRequest) -> object:
        return getattr(self._scorer, method)(request)
