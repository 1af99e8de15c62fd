"""Jobs of other constants than the policy's, for tests and benchmarks.

A document may have two sections that a job file has not: `policy`, fields of `service.policy.Policy`, and among them
`search`, those of its search settings. `tune` takes them out and puts them in force in this process.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ranksieve.service import policy
from ranksieve.service.policy import EFFORTS, Policy

PLAIN = Policy()
"""Tests start from the defaults of the class: no training, and the long search."""


def tuned(base: Policy, changes: Mapping[str, Any]) -> Policy:
    """A policy with some fields changed; those of `search` are changed one by one."""
    rest = {name: value for name, value in changes.items() if name != "search"}
    return replace(base, search=replace(base.search, **changes.get("search", {})), **rest)


def tune(document: Mapping[str, Any], base: Policy = PLAIN) -> dict[str, Any]:
    """Put a document's `policy` in force for its effort, until the next call; return the rest of it."""
    rest = {name: value for name, value in document.items() if name != "policy"}
    EFFORTS[rest.get("effort", "normal")] = tuned(base, document.get("policy", {}))
    return rest


def front(**changes: Any) -> None:
    """Change the sizes of fronts in this process."""
    policy.FRONT.update(changes)
