"""Splits of records that never overlap, whatever the order in the file.

A hash of a record's content and the seed decides its place. Two records with the same key (the text the model would
see) are duplicates, and one of them stays. Splits choose in the order test, confirm, search, calibration, so the test
split depends on no other size. A file of a lower split loses the records that a higher split already holds.

Where records have a group, a split takes whole groups, in an order that a hash decides too. The rest of its last group
is in no split.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from ranksieve.search.errors import InputError
from ranksieve.workers.data.conversation import Prompt
from ranksieve.workers.types.plan import SPLITS

SHARED = "source"
"""Name of the pool of splits without a file of their own."""

Mark = tuple[str, str]
"""Kind of a property and its value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A record that a split may take.

    `name` is for messages, `prompt` is rendered, and records with the same `key` are duplicates. Records of the same
    `group` are never in different splits.
    """

    name: str
    record: Mapping[str, Any]
    prompt: Prompt
    key: str
    group: str | None = None

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Properties that no two splits may share."""
        key = ("key", self.key)
        return (key,) if self.group is None else (key, ("group", self.group))


@dataclass(frozen=True, kw_only=True, slots=True)
class Division:
    """Chosen candidates by split, and the number of dropped duplicates."""

    splits: Mapping[str, tuple[Candidate, ...]]
    dropped_duplicates: int


USUAL_SHARES = {"calibration": 0.5, "search": 0.1, "confirm": 0.2, "test": 0.2}
"""Shares of the records for splits without a given size."""

LEAST_JUDGES = 8
"""Smallest number of records of a split without a given size."""

USUAL_MOST = {"calibration": 4096, "search": 384, "confirm": 1200, "test": 1500}
"""Largest number of records of splits without a given size.

More showed no measurable gain.
"""


def sizes_of(
    pools: Mapping[str, Sequence[Candidate]], splits: Sequence[str], given: Mapping[str, int]
) -> dict[str, int]:
    """Choose the sizes of splits that have none given.

    Args:
        pools: As for `split`.
        splits: Splits to make.
        given: Split name → size, for splits with a size chosen by the user.

    Returns:
        Split name → size. Splits with a file of their own take all its records that no higher split may take, up to
        `USUAL_MOST`. The others divide what is left of the shared pool in the proportions of `USUAL_SHARES`, less what
        groups may leave over; calibration gets what the others leave.

    Raises:
        InputError: There are too few records.
    """
    marks = {name: {mark for one in pool for mark in one.marks} for name, pool in pools.items()}
    own = set().union(*(marks[name] for name in marks if name != SHARED))
    sharing = [name for name in splits if name not in pools]
    left_over = _left_over(pools.get(SHARED, ()), len(sharing))
    shared = _count(pools.get(SHARED, ()), own) - left_over - sum(given.get(name, 0) for name in sharing)
    sizes = dict(given)
    for name in splits:
        if name in given:
            continue
        if name in pools:
            higher = [other for other in SPLITS[SPLITS.index(name) + 1 :] if other in splits]
            taken = set().union(*(marks[other if other in pools else SHARED] for other in higher))
            there = _count(pools[name], taken)
        else:
            there = int(USUAL_SHARES[name] * shared)
        sizes[name] = min(there, USUAL_MOST[name])
    if "calibration" in sharing and "calibration" not in given:
        others = sum(sizes[name] for name in sharing if name not in (*given, "calibration"))
        sizes["calibration"] = min(max(0, shared - others), USUAL_MOST["calibration"])
    for name in splits:
        if name not in given and sizes[name] < LEAST_JUDGES:
            raise _no_size(name, sizes[name], None if name in pools else max(0, shared), left_over)
    return {name: sizes[name] for name in splits}


def _count(pool: Collection[Candidate], taken: Set[Mark]) -> int:
    """Return the number of different records that have none of the taken marks."""
    keys = {one.key for one in pool}
    return len(keys - {one.key for one in pool if not taken.isdisjoint(one.marks)})


def _left_over(pool: Iterable[Candidate], splits: int) -> int:
    """Return the most records that remain in no split because of cut groups."""
    sizes = Counter(group for group, _ in {(one.group, one.key) for one in pool} if group is not None)
    return max(0, splits - 1) * (max(sizes.values(), default=1) - 1)


def _no_size(name: str, size: int, shared: int | None, left_over: int) -> InputError:
    """Return the error of a split that would get too few records.

    `shared` is None for a split with a file of its own.
    """
    besides = f", besides {left_over:,} that groups may leave over," if left_over else ""
    if shared is None:
        return InputError(
            f"task.data.files.{name}",
            f"too few records: {size:,} different ones that no other split may take, but the {name} split needs "
            f"{LEAST_JUDGES}; give more records, or task.data.sizes of all splits",
        )
    return InputError(
        "task.data",
        f"too few records: {shared:,} different ones to divide{besides} leave {max(0, size):,} for the {name} split, "
        f"which needs {LEAST_JUDGES}; give at least {round(LEAST_JUDGES / min(USUAL_SHARES.values()))} records, "
        "and better 200 or more",
    )


def split(pools: Mapping[str, Sequence[Candidate]], sizes: Mapping[str, int], seed: int) -> Division:
    """Divide the candidates.

    Args:
        pools: Candidates of every split that has its own file, by split name; the rest under `SHARED`.
        sizes: Split name → exact number of records. Splits without a size are not made.
        seed: Seed; the same seed and records give the same splits.

    Returns:
        Splits in the order of `SPLITS`; each in shuffled order, so that its head is a random sample.

    Raises:
        InputError: On `task.data.sizes.<split>`, if too few records are left for the split.
    """
    ordered = {name: _by_group(_distinct(_shuffled(pool, seed)), seed) for name, pool in pools.items()}
    dropped = {name: len(pools[name]) - len(ordered[name]) for name in pools}
    owner: dict[str, str] = {}
    taken: set[Mark] = set()
    shared_with: dict[str, set[str]] = {name: set() for name in pools}
    chosen: dict[str, tuple[Candidate, ...]] = {}
    for name in (name for name in reversed(SPLITS) if name in sizes):
        pool = name if name in pools else SHARED
        free = [candidate for candidate in ordered[pool] if taken.isdisjoint(candidate.marks)]
        shared_with[pool] |= {c.key for c in ordered[pool] if owner.get(c.key, pool) != pool}
        if len(free) < sizes[name]:
            problem = _too_few(sizes[name], len(free), len(pools[pool]), dropped[pool])
            raise InputError(f"task.data.sizes.{name}", problem)
        chosen[name] = tuple(_shuffled(free[: sizes[name]], seed))
        owner.update((candidate.key, pool) for candidate in chosen[name])
        taken.update(mark for candidate in chosen[name] for mark in candidate.marks)
    return Division(
        splits={name: chosen[name] for name in SPLITS if name in chosen},
        dropped_duplicates=sum(dropped.values()) + sum(map(len, shared_with.values())),
    )


def _shuffled(pool: Iterable[Candidate], seed: int) -> list[Candidate]:
    return sorted(pool, key=lambda candidate: _digest(candidate.record, seed))


def _by_group(pool: list[Candidate], seed: int) -> list[Candidate]:
    """Bring the records of a group together, in random order of the groups."""
    return sorted(
        pool, key=lambda candidate: b"" if candidate.group is None else _digest(candidate.group, seed)
    )


def _digest(content: Any, seed: int) -> bytes:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(f"{seed}\n{text}".encode()).digest()


def _distinct(pool: Iterable[Candidate]) -> list[Candidate]:
    first: dict[str, Candidate] = {}
    for candidate in pool:
        first.setdefault(candidate.key, candidate)
    return list(first.values())


def _too_few(needed: int, free: int, records: int, duplicates: int) -> str:
    taken = records - duplicates - free
    return (
        f"needs {needed:,} records, but {free:,} are left: {records:,} were read, {duplicates:,} are "
        f"duplicates and {taken:,} belong to other splits or to their groups; lower the sizes or give more records"
    )
