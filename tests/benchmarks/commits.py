"""The points at which a crash campaign strikes: just before and just after the commit of every write of a store."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ranksieve.service.store import Store

Moment = Callable[[str, tuple[Any, ...], str], None]
"""Told of the name of a write, what it was called with, and `before` or `after`."""


def watch(store: Store, writes: Iterable[str], moment: Moment) -> None:
    """Tells of the commits of some writes, in the thread that writes, which waits for the answer.

    Args:
        store: Whose; of this process alone.
        writes: Names of its methods.
        moment: Told of each of their commits, before and after.
    """
    doing = threading.local()

    def named(name: str, write: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            doing.write = (name, arguments)
            try:
                return write(*arguments, **options)
            finally:
                doing.write = None

        return call

    @contextmanager
    def watched(transaction: Any) -> Iterator[Any]:
        write = getattr(doing, "write", None)
        with transaction as session:
            yield session
            session.flush()
            if write is not None:
                moment(*write, "before")
        if write is not None:
            moment(*write, "after")

    parts = (store.submissions, store.user_requests, store.claims, store.runs)
    for name in writes:
        (part,) = (part for part in parts if hasattr(part, name))
        setattr(part, name, named(name, getattr(part, name)))
    writing = store.database.writing
    store.database.writing = lambda: watched(writing())  # type: ignore[method-assign]
