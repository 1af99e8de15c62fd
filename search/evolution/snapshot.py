"""A search as plain JSON values: what is retired, what is in flight, and whose search it is.

Of a generation in flight only its candidates are kept, not what they have scored so far: that is found out again.
The randomness needs no place: every generation draws from a stream of its own (`search.evolution.breeding.stream`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from typing import Any

import numpy as np

from ranksieve.search.errors import UnresumableError
from ranksieve.search.evolution.asktell import Generation
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.objectives import Objective
from ranksieve.search.space.space import SearchSpace

STATE_VERSION = 6


def fingerprint(space: SearchSpace, objective: Objective, settings: SearchSettings) -> str:
    """A hash of all that decides which search this is.

    Args:
        space: Names and shapes of its matrices and the levels of its genes count.
        objective: What the user wants.
        settings: How to search.
    """
    asked = {
        "matrices": [[shape.name, shape.out_features, shape.in_features] for shape in space.matrices],
        "genes": [[gene.members, gene.levels] for gene in space.genes],
        "objective": [type(objective).__name__, asdict(objective)],
        "settings": asdict(settings),
    }
    return sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def prices(space: SearchSpace) -> str:
    """A hash of what all levels cost, in the unit of the space: two latency tables may have the same levels.

    Args:
        space: Its genes and settled matrices count.
    """
    costs = np.concatenate(
        [space.cost_GL.ravel(), space.dense_cost_G, [space.smallest_cost, space.total_cost]]
    )
    return sha256(costs.astype("<i8").tobytes()).hexdigest()


def check(state: Mapping[str, Any], expected: str, costs: str) -> None:
    """Refuse a state that cannot be gone on from.

    Args:
        state: What a search saved.
        expected: The fingerprint of the search that would go on.
        costs: What its levels cost, see `prices`.

    Raises:
        UnresumableError: It is of another version of this program, or of another search.
    """
    if state["version"] != STATE_VERSION:
        raise UnresumableError(
            f"saved search has version {state['version']}, expected {STATE_VERSION}; submit the job again"
        )
    if state["fingerprint"] != expected:
        raise UnresumableError(
            "the saved search is of another space, objective or setting; submit the job again"
        )
    if state["prices"] != costs:
        raise UnresumableError(
            "the saved search is of a space whose ranks cost something else; submit the job again"
        )


def flight_json(flight: Sequence[Generation]) -> list[dict[str, Any]]:
    """Generations in flight as plain JSON values."""
    return [
        {
            "generation": generation.number,
            "target_share": generation.target_share,
            "screened": generation.race.screened,
            "candidates": [list(genome) for genome in generation.race.candidates],
        }
        for generation in flight
    ]
