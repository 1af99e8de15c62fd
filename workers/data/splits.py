"""Divide records into splits that never overlap, whatever their order in the file.

A record's place is decided by a hash of its content and the seed. Two records with the same key (the text
the model would see) are duplicates: one stays. Splits choose in the order test, confirm, search,
calibration, so the test split depends on no other size, and an own file of a lower split loses what a
higher one already holds.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ranksieve.search.errors import InputError
from ranksieve.workers.types.plan import SPLITS

SHARED = "source"
"""Name of the pool that splits without a file of their own draw from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A record that a split may take: its name in messages, its rendered prompt and the key to compare by."""

    name: str
    record: Mapping[str, Any]
    prompt: str
    key: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Division:
    """The chosen candidates by split, and how many records were dropped because another one is the same."""

    splits: Mapping[str, tuple[Candidate, ...]]
    dropped_duplicates: int


def split(pools: Mapping[str, Sequence[Candidate]], sizes: Mapping[str, int], seed: int) -> Division:
    """Divide the candidates.

    Args:
        pools: Candidates of every split that has its own file, by split name; the rest under `SHARED`.
        sizes: Split name → exact number of records. Splits that are not named get none.
        seed: Same seed and same records, same splits.

    Returns:
        Splits in the order of `SPLITS`; each in shuffled order, so that its head is a random sample.

    Raises:
        InputError: On `task.data.sizes.<split>`, if too few records are left for it.
    """
    ordered = {name: _distinct(_shuffled(pool, seed)) for name, pool in pools.items()}
    dropped = {name: len(pools[name]) - len(ordered[name]) for name in pools}
    owner: dict[str, str] = {}
    shared_with: dict[str, set[str]] = {name: set() for name in pools}
    chosen: dict[str, tuple[Candidate, ...]] = {}
    for name in (name for name in reversed(SPLITS) if name in sizes):
        pool = name if name in pools else SHARED
        free = [candidate for candidate in ordered[pool] if candidate.key not in owner]
        shared_with[pool] |= {c.key for c in ordered[pool] if owner.get(c.key, pool) != pool}
        if len(free) < sizes[name]:
            problem = _too_few(sizes[name], len(free), len(pools[pool]), dropped[pool])
            raise InputError(f"task.data.sizes.{name}", problem)
        chosen[name] = tuple(free[: sizes[name]])
        owner.update((candidate.key, pool) for candidate in chosen[name])
    return Division(
        splits={name: chosen[name] for name in SPLITS if name in chosen},
        dropped_duplicates=sum(dropped.values()) + sum(map(len, shared_with.values())),
    )


def _shuffled(pool: Iterable[Candidate], seed: int) -> list[Candidate]:
    return sorted(pool, key=lambda candidate: _digest(candidate.record, seed))


def _digest(record: Mapping[str, Any], seed: int) -> bytes:
    content = json.dumps(record, sort_keys=True, default=str)
    return hashlib.sha256(f"{seed}\n{content}".encode()).digest()


def _distinct(pool: Iterable[Candidate]) -> list[Candidate]:
    first: dict[str, Candidate] = {}
    for candidate in pool:
        first.setdefault(candidate.key, candidate)
    return list(first.values())


def _too_few(needed: int, free: int, records: int, duplicates: int) -> str:
    taken = records - duplicates - free
    return (
        f"needs {needed:,} records, but {free:,} are left: {records:,} were read, {duplicates:,} are "
        f"duplicates and {taken:,} belong to other splits; lower the sizes or give more records"
    )
