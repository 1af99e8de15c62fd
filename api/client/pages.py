"""Whole lists of a job, read page by page."""

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote

from ranksieve.api.client.client import Client

PAGE = 1000
"""Items in an answer."""

Items = list[dict[str, Any]]


def all_candidates(client: Client, job_id: str, fields: Iterable[str]) -> Items:
    """Return all scored candidates with some of their fields, `id` among them."""
    names = list(fields)
    return _all(lambda last: client.candidates(job_id, limit=PAGE, after=last, fields=names), "id")


def all_generations(client: Client, job_id: str) -> Items:
    """Return all finished generations."""
    return _all(
        lambda last: client.generations(job_id, after=-1 if last is None else last, limit=PAGE), "generation"
    )


def past_events(client: Client, job_id: str, types: Iterable[str]) -> Items:
    """Return the events of some types so far, without waiting for more.

    Raises:
        ApiError: They are past retention, or there is no such job.
    """
    url, names = f"/v1/jobs/{quote(job_id, safe='')}/events", list(types)

    def read(last: int | None) -> Items:
        params = {"after": last or 0, "limit": PAGE, "type": names}
        return list(client.connection.request("GET", url, params=params)["events"])

    return _all(read, "seq")


def _all(read: Callable[[int | None], Items], key: str) -> Items:
    """Return the items of all pages, each after the `key` of the item before it."""
    found = page = read(None)
    while len(page) == PAGE:
        page = read(page[-1][key])
        found = found + page
    return found
