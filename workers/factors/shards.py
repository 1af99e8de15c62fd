"""Grams summed over the shards of the calibration batches, by any number of workers that share a cache.

Shards are added to the sum in their order, whoever computes them and whenever: floating-point sums depend on the order,
and the factors must not depend on the number of workers. A worker takes the first shard that nobody holds. If
the sum has come as far as that, it adds its shard; else the shard waits in the cache. Nobody directs them: a shard
is taken by locking its key, and the kernel gives back the locks of a killed worker, so that another takes its shard.

Entries of shards [a, b): `0..n` is the sum so far, `n..n+1` a shard that waits for it.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from typing import TypeVar

from ranksieve.workers.cache.folders import FolderCache, content_key
from ranksieve.workers.factors.grams import Grams

SPILLED_PER_WORKER = 2
"""Shards that may wait for an earlier one, for each worker."""

T = TypeVar("T")


class ShardedSum:
    """The sum over all shards, in the cache.

    Args:
        cache: Shared by the workers.
        key: Of what is summed.
        shards: Their number.
        workers: About how many there are; bounds how many shards wait.
    """

    def __init__(self, cache: FolderCache, key: str, shards: int, workers: int) -> None:
        self._cache = cache
        self._base = key
        self._shards = shards
        self._window = SPILLED_PER_WORKER * workers

    def gather(
        self, compute: Callable[[int], Generator[T, None, Grams]], needed: Callable[[], bool]
    ) -> Iterator[T]:
        """Computes shards until the sum is whole; leaves those to others that they have taken, and waits for them.

        Args:
            compute: Yields what is to be passed on, and returns the Grams of one shard.
            needed: Whether anybody still wants the sum: where nobody does, it may be gone.
        """
        while not self.whole and needed():
            if not (yield from self._take(compute, needed)):
                with self._cache.lock(self._next_key()):
                    pass  # whoever held the shard that the sum waits for is done, or dead
            self._fold()

    @property
    def whole(self) -> bool:
        """Whether the sum over all shards is in the cache."""
        return self._summed() == self._shards

    def done(self) -> list[int]:
        """The shards that nobody has to compute any more."""
        summed = self._summed()
        return [shard for shard in range(self._shards) if shard < summed or self._has(shard, shard + 1)]

    def load(self) -> Grams | None:
        """The sum over all shards; None if it was damaged, and is gone: it has to be gathered again."""
        return self._load(0, self._shards)

    def discard(self) -> None:
        """Removes all entries: nobody needs the sum any more."""
        for shard in range(self._shards):
            self._remove(shard, shard + 1)
            self._remove(0, shard + 1)

    def _take(
        self, compute: Callable[[int], Generator[T, None, Grams]], needed: Callable[[], bool]
    ) -> Generator[T, None, bool]:
        """Computes the first shard that is neither done nor taken; whether there was one."""
        first = self._summed()
        for shard in range(first, min(first + self._window, self._shards)):
            with self._cache.claim(self._key(shard, shard + 1)) as claimed:
                # in this order: a waiting shard is added before it goes, and the sum is used before that goes
                if claimed and not self._has(shard, shard + 1) and self._summed() <= shard and needed():
                    self._publish(shard, (yield from compute(shard)))
                    return True
        return False

    def _publish(self, shard: int, grams: Grams) -> None:
        """Adds a shard to the sum, or leaves it to wait; the first one is the sum. Called with its key held."""
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
        """Adds waiting shards to the sum as long as the next one is there."""
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
        """How many shards are in the sum; upwards, since a sum goes only after the next one is there."""
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
