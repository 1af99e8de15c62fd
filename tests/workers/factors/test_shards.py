import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from ranksieve.workers.cache.folders import FolderCache
from ranksieve.workers.factors.grams import Grams, GramSum
from ranksieve.workers.factors.shards import ShardedSum

CPU = torch.device("cpu")
SHARDS = 6

Sums = Callable[..., ShardedSum]


@pytest.fixture
def sums(tmp_path: Path) -> Sums:
    def make(workers: int = 1, folder: str = "cache") -> ShardedSum:
        return ShardedSum(FolderCache(tmp_path / folder), "key", SHARDS, workers)

    return make


def shard(index: int) -> Grams:
    """Numbers whose sum depends on the order."""
    gram = GramSum.zeros(3, CPU)
    gram.panels_P.copy_(
        torch.randn(9, dtype=torch.float64, generator=torch.Generator().manual_seed(index)) * 10.0**index
    )
    return Grams(tokens=index + 1, forward={"a": gram})


def compute(index: int) -> Generator[int, None, Grams]:
    yield index
    return shard(index)


def gathered(sums: ShardedSum) -> Iterator[int]:
    return sums.gather(compute, lambda: True)


def whole(sums: ShardedSum) -> torch.Tensor:
    grams = sums.load()
    assert grams is not None
    assert grams.tokens == 21
    return grams.forward["a"].panels_P.clone()


def in_order() -> torch.Tensor:
    total = shard(0)
    for index in range(1, SHARDS):
        total.add_(shard(index))
    return total.forward["a"].panels_P


def test_one_worker_takes_all_shards_in_their_order(sums: Sums) -> None:
    alone = sums()
    assert list(gathered(alone)) == list(range(SHARDS))
    assert whole(alone).equal(in_order())
    assert alone.whole
    assert list(gathered(alone)) == []


def test_order_matters_for_these_numbers() -> None:
    total = shard(5)
    for index in range(5):
        total.add_(shard(index))
    assert not total.forward["a"].panels_P.equal(in_order())


def test_workers_share_the_shards_and_the_sum_is_the_same(sums: Sums) -> None:
    with ThreadPoolExecutor() as pool:
        taken = [index for part in pool.map(lambda _: list(gathered(sums(3))), range(3)) for index in part]
    assert sorted(taken) == list(range(SHARDS))
    assert whole(sums(3)).equal(in_order())


def test_shards_that_are_ready_too_early_wait_for_the_first(sums: Sums, tmp_path: Path) -> None:
    slow, fast = gathered(sums(2)), gathered(sums(2))
    assert next(slow) == 0
    assert [next(fast) for _ in range(3)] == [1, 2, 3]  # and 1 and 2 are done
    assert sums(2).done() == [1, 2]
    fast.close()  # type: ignore[attr-defined]
    assert list(slow) == [3, 4, 5]
    assert whole(sums(2)).equal(in_order())
    assert len(list((tmp_path / "cache").glob("grams-*/"))) == 1  # what was added is gone


def test_no_more_shards_wait_than_there_are_workers_for(sums: Sums) -> None:
    begun, released = [], threading.Event()

    def noted(index: int) -> Generator[int, None, Grams]:
        begun.append((index, released.is_set()))
        yield index
        return shard(index)

    slow, fast = (sums(1).gather(noted, lambda: True) for _ in range(2))
    with ThreadPoolExecutor(
        max_workers=1
    ) as pool:  # a lock is its thread's: one that waits there is no deadlock here
        assert (next(slow), pool.submit(next, fast).result(timeout=60)) == (0, 1)
        rest = pool.submit(list, fast)  # finishes 1, may not take 2, and waits for 0
        released.set()
        taken = [0, 1, *slow, *rest.result(timeout=60)]
    assert sorted(taken) == list(range(SHARDS))
    assert [index for index, after in begun if not after] == [0, 1]
    assert whole(sums()).equal(in_order())


def test_what_is_done_survives_a_worker_that_is_cut_off(sums: Sums) -> None:
    dying = gathered(sums())
    for _ in range(3):
        next(dying)
    dying.close()  # type: ignore[attr-defined]
    assert sums().done() == [0, 1]
    assert list(gathered(sums())) == [2, 3, 4, 5]
    assert whole(sums()).equal(in_order())


def test_a_damaged_sum_is_gathered_again(sums: Sums, tmp_path: Path) -> None:
    list(gathered(sums()))
    (file,) = (tmp_path / "cache").glob("grams-*/grams.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    assert sums().load() is None
    assert list(gathered(sums())) == list(range(SHARDS))
    assert whole(sums()).equal(in_order())


def test_a_damaged_shard_is_computed_again(sums: Sums, tmp_path: Path) -> None:
    slow, fast = gathered(sums(2)), gathered(sums(2))
    next(slow)
    assert [next(fast) for _ in range(2)] == [1, 2]
    fast.close()  # type: ignore[attr-defined]
    (file,) = (tmp_path / "cache").glob("grams-*/grams.json")
    file.write_text("{}")
    assert list(slow) == [1, 2, 3, 4, 5]
    assert whole(sums(2)).equal(in_order())


def test_a_sum_that_nobody_needs_is_not_gathered(sums: Sums, tmp_path: Path) -> None:
    assert list(sums().gather(compute, lambda: False)) == []
    list(gathered(sums()))
    sums().discard()
    assert not list((tmp_path / "cache").glob("grams-*/"))
