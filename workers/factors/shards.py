"""Grams summed over calibration shards by workers that share a cache.

Shards are added to the sum in their order, whoever computes them and whenever: floating-point sums depend on the order,
and the factors must not depend on the number of workers. A worker takes the first shard that no other holds. It adds
the shard if the sum has reached it; else the shard waits in the cache. There is no coordinator: a worker takes a shard
by locking its key, and the kernel releases the locks of a killed worker, so that another takes its shard.

Entries of shards [a, b): `0..n` is the sum so far, `n..n+1` a shard that waits for it.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from typing import TypeVar

from ranksieve.workers.cache.folders import FolderCache, content_key
from ranksieve.workers.factors.grams import Grams

SPILLED_PER_WORKER = 2
"""Shards per worker that may wait for an earlier one."""

T = TypeVar("T")


class ShardedSum:
    """Sum over all shards, in the cache.

    Args:
        cache: Shared by the workers.
        key: Key of the summed Grams.
        shards: Number of shards.
        workers: Approximate number of workers; bounds the waiting shards.
    """

    def __init__(self, cache: FolderCache, key: str, shards: int, workers: int) -> None:
        self._cache = cache
        self._base = key
        self._shards = shards
        self._window = SPILLED_PER_WORKER * workers

    def gather(
        self, compute: Callable[[int], Generator[T, None, Grams]], needed: Callable[[], bool]
    ) -> Iterator[T]:
        """Compute shards until the sum is whole.

        Shards of other workers are waited for.

        Args:
            compute: Yields progress to pass on, and returns the Grams of one shard.
            needed: Whether the sum is still needed; if not, it may be gone.
        """
        while not self.whole and needed():
            if not (yield from self._take(compute, needed)):
                with self._cache.lock(self._next_key()):
                    pass  # the worker that held the next shard is done, or dead
            self._fold()

    @property
    def whole(self) -> bool:
        """Whether the sum over all shards is in the cache."""
        return self._summed() == self._shards

    def done(self) -> list[int]:
        """Return the shards that need no more computing."""
        summed = self._summed()
        return [shard for shard in range(self._shards) if shard < summed or self._has(shard, shard + 1)]

    def load(self) -> Grams | None:
        """Load the sum over all shards; None if it was damaged and must be gathered again."""
        return self._load(0, self._shards)

    def discard(self) -> None:
        """Remove all entries, once the sum is no longer needed."""
        for shard in range(self._shards):
            self._remove(shard, shard + 1)
            self._remove(0, shard + 1)

    def _take(
        self, compute: Callable[[int], Generator[T, None, Grams]], needed: Callable[[], bool]
    ) -> Generator[T, None, bool]:
        """Compute the first shard that is neither done nor taken; return whether one was."""
        first = self._summed()
        for shard in range(first, min(first + self._window, self._shards)):
            with self._cache.claim(self._key(shard, shard + 1)) as claimed:
                # in this order: a waiting shard is added before it goes, and the sum is used before that goes
                if claimed and not self._has(shard, shard + 1) and self._summed() <= shard and needed():
                    self._publish(shard, (yield from compute(shard)))
                    return True
        return False

    def _publish(self, shard: int, grams: Grams) -> None:
        """Add a shard to the sum, or leave it to wait; the key must be held.

        The first shard is the sum.
        """
        next_sum = self._key(0, shard + 1)
        with self._cache.lock(next_sum) if shard else nullcontext():
            before = self._load(0, shard) if shard else None
            if before is None:
                self._write(shard, shard + 1, grams)
                return
            grams.add_(before)
            self._write(0, shard + 1, grams)
        self._remove(0, shard)

    def _fold(self) -> None:
        """Add waiting shards to the sum as long as the next one is there."""
        while 0 < (summed := self._summed()) < self._shards and self._has(summed, summed + 1):
            with self._cache.lock(self._key(0, summed + 1)):
                if self._has(0, summed + 1):
                    continue  # another worker was quicker
                before, shard = self._load(0, summed), self._load(summed, summed + 1)
                if before is None or shard is None:
                    continue  # damaged, and gone
                shard.add_(before)
                self._write(0, summed + 1, shard)
            self._remove(0, summed)
            self._remove(summed, summed + 1)

    def _summed(self) -> int:
        """Return the number of shards in the sum.

        Counted upwards, since a sum is removed only after the next one exists.
        """
        return max((stop for stop in range(1, self._shards + 1) if self._has(0, stop)), default=0)

    def _next_key(self) -> str:
        summed = self._summed()
        return self._key(summed, summed + 1)

    def _key(self, start: int, stop: int) -> str:
        return content_key("grams", self._base, self._shards, start, stop)

    def _has(self, start: int, stop: int) -> bool:
        return self._cache.has(self._key(start, stop))

    def _load(self, start: int, stop: int) -> Grams | None:
        key = self._key(start, stop)
        if not self._cache.has(key):
            return None
        with self._cache.lock(key):
            folder = self._cache.find(key)
            return None if folder is None else Grams.load(folder)

    def _write(self, start: int, stop: int, grams: Grams) -> None:
        with self._cache.writing(self._key(start, stop)) as scratch:
            grams.save(scratch)

    def _remove(self, start: int, stop: int) -> None:
        if self._has(start, stop):
            self._cache.remove(self._key(start, stop))
