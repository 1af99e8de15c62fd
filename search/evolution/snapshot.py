"""State of a search as plain JSON values, and the checks before it is continued.

Of a generation in flight only the candidates are kept, not their scores so far; these are computed again. Randomness
needs no state: every generation draws from a stream of its own (`search.evolution.breeding.stream`).
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

STATE_VERSION = 7


def fingerprint(space: SearchSpace, objective: Objective, settings: SearchSettings) -> str:
    """Return a hash of everything that identifies a search.

    Args:
        space: Search space; names and shapes of matrices and levels of genes count.
        objective: Objective of the search.
        settings: Settings of the search.
    """
    identity = {
        "matrices": [[shape.name, shape.out_features, shape.in_features] for shape in space.matrices],
        "genes": [[gene.members, gene.levels] for gene in space.genes],
        "objective": [type(objective).__name__, asdict(objective)],
        "settings": asdict(settings),
    }
    return sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def prices(space: SearchSpace) -> str:
    """Return a hash of the costs of all levels.

    Two latency tables may have the same levels but not the same costs.

    Args:
        space: Search space; genes and settled matrices count.
    """
    costs = np.concatenate(
        [space.cost_GL.ravel(), space.dense_cost_G, [space.smallest_cost, space.total_cost]]
    )
    return sha256(costs.astype("<i8").tobytes()).hexdigest()


def check(state: Mapping[str, Any], expected: str, costs: str) -> None:
    """Raise if a state cannot be continued.

    Args:
        state: Saved state of a search.
        expected: Fingerprint of the search that would continue.
        costs: Hash of the costs of its levels, see `prices`.

    Raises:
        UnresumableError: The state is of another version of this program, or of another search.
    """
    if state["version"] != STATE_VERSION:
        raise UnresumableError(
            f"saved search has version {state['version']}, expected {STATE_VERSION}; submit the job again"
        )
    if state["fingerprint"] != expected:
        raise UnresumableError(
            "the saved search has another space, objective or setting; submit the job again"
        )
    if state["prices"] != costs:
        raise UnresumableError("the saved search has other costs of ranks; submit the job again")


def flight_json(flight: Sequence[Generation]) -> list[dict[str, Any]]:
    """Return the generations in flight as plain JSON values."""
    return [
        {
            "generation": generation.number,
            "target_share": generation.target_share,
            "candidates": [list(genome) for genome in generation.candidates],
        }
        for generation in flight
    ]
