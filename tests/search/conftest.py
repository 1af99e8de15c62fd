"""A search problem without a model: KL is the predicted loss under hidden weights per matrix."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pytest
from numpy.typing import NDArray

from ranksieve.search.evolution.evolution import Evolution
from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.evolution.record import GenerationRecord
from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.search.space.prices import Prices
from ranksieve.search.space.space import Genome, SearchSpace

SHAPES = {"q_proj": (64, 64), "k_proj": (32, 64), "up_proj": (128, 64), "down_proj": (64, 128)}
MODULES = {"q_proj": "attn", "k_proj": "attn", "up_proj": "mlp", "down_proj": "mlp"}
"""Where matrices are said to be in one: such a sublayer may go as a whole."""


def power_law(length: int, scale: float, decay: float) -> NDArray[np.float64]:
    return scale * np.arange(1, length + 1, dtype=np.float64) ** -decay


@dataclass
class Problem:
    """A space, what the search believes about it, and what is true."""

    space: SearchSpace
    energies: list[NDArray[np.float64]]
    weights: NDArray[np.float64]
    points_per_nat: float = 10.0
    fails: Callable[[Trial], str | None] = lambda trial: None
    calls: list[Trial] = field(default_factory=list)

    @property
    def true_energies(self) -> list[NDArray[np.float64]]:
        return [energy * weight for energy, weight in zip(self.energies, self.weights, strict=True)]

    @cached_property
    def prices(self) -> Prices:
        return Prices(self.space, self.energies)

    def kl_nats(self, genome: Genome) -> float:
        lost_G = self.prices.lost_GL[self.prices.rows_G, list(genome)]
        return float((lost_G * self.weights).sum())

    def score(self, trials: Sequence[Trial]) -> list[Outcome]:
        self.calls.extend(trials)
        return [self._outcome(trial) for trial in trials]

    @staticmethod
    def retire(evolution: Evolution) -> list[GenerationRecord]:
        """Retire every generation that is complete."""
        return list(iter(evolution.retire, None))

    def drive(self, evolution: Evolution) -> list[GenerationRecord]:
        """Score whatever is asked for, in the order in which it is asked."""
        records = self.retire(evolution)
        while not evolution.finished:
            evolution.tell(self.score(evolution.ask()))
            records += self.retire(evolution)
        return records

    def _outcome(self, trial: Trial) -> Outcome:
        if (reason := self.fails(trial)) is not None:
            return Outcome.failed(trial, reason, tokens=trial.examples)
        kl_nats = self.kl_nats(trial.genome)
        bias = (
            1.0 + 0.01 * (sum(trial.genome) % 7) / trial.examples
        )  # few examples rank close genomes a little wrong
        return Outcome(
            genome=trial.genome,
            examples=trial.examples,
            kl_nats=kl_nats * bias,
            drop_points=self.points_per_nat * kl_nats,
            metric=1.0 - self.points_per_nat * kl_nats / 100,
            tokens=trial.examples,
            seconds=0.5,
        )


@pytest.fixture(scope="session")
def make_space() -> Callable[..., SearchSpace]:
    def make(layers: int = 4, rank_step: int = 4, *, sublayers: bool = False) -> SearchSpace:
        kinds = {f"{MODULES[kind]}.{kind}" if sublayers else kind: shape for kind, shape in SHAPES.items()}
        matrices = [
            MatrixShape(name=f"{layer}.{kind}", out_features=o, in_features=d, layer=layer, kind=kind)
            for layer in range(layers)
            for kind, (o, d) in kinds.items()
        ]
        return SearchSpace(matrices, rank_step)

    return make


@pytest.fixture(scope="session")
def make_problem(make_space: Callable[..., SearchSpace]) -> Callable[..., Problem]:
    def make(
        layers: int = 4,
        rank_step: int = 4,
        distortion: float = 0.7,
        seed: int = 0,
        *,
        sublayers: bool = False,
    ) -> Problem:
        rng = np.random.default_rng(seed)
        space = make_space(layers, rank_step, sublayers=sublayers)
        energies = [
            power_law(
                min(shape.out_features, shape.in_features), rng.lognormal(-3, 0.7), rng.uniform(0.6, 1.6)
            )
            for shape in space.matrices
        ]
        return Problem(space=space, energies=energies, weights=rng.lognormal(0, distortion, len(space)))

    return make


@pytest.fixture
def tiny() -> tuple[SearchSpace, list[NDArray[np.float64]]]:
    """Three small matrices whose 5·5·7 genomes can all be tried."""
    shapes = [(8, 8), (8, 8), (8, 24)]
    matrices = [
        MatrixShape(name=f"m{i}", out_features=o, in_features=d, layer=i, kind="m")
        for i, (o, d) in enumerate(shapes)
    ]
    energies = [power_law(8, 1.0, 1.0), power_law(8, 0.3, 2.0), power_law(8, 2.0, 0.5)]
    return SearchSpace(matrices, 1), energies


@pytest.fixture
def bounded() -> SearchSpace:
    """`a` keeps half at least, `b` rank 4 at most: 128 to 384 of 512 numbers, or twice as many bytes."""
    return SearchSpace(
        [MatrixShape(name=name, out_features=16, in_features=16, layer=0, kind=name) for name in ("a", "b")],
        2,
        allowed=[(4, 6, DENSE), (0, 2, 4)],
        price=lambda shape, rank: 2 * shape.price(rank),
    )
