"""A task without a model, scored in well under a millisecond: two choices, and losses that add up as in reality.

What a matrix loses at a rank shifts the log-odds of an example's answers: every component that is cut adds a shift of
its own, random over the examples, whose variance is its energy times a weight of the matrix that the search does not
know. Then the log-odds are divided by what these variances blow them up by, as a norm before the head does: a broken
model is unsure, not wrong. So the KL rises convexly in the energy cut and levels off, shifts of several matrices add up
or cancel (`BIAS` is the part that all examples share, which never averages out), comparisons on the same examples are
paired, and a search can overfit its examples, all as for the real model. Base log-odds and labels make a dense model
of 80 % accuracy.

Legend: G matrices, L levels, E examples.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ranksieve.search.space.matrix import MatrixShape
from ranksieve.search.space.prices import Energies, Prices
from ranksieve.search.space.space import Genome, SearchSpace
from ranksieve.search.start.seeds import lagrangian
from ranksieve.workers.types.plan import EncodedTask, Example, Row
from ranksieve.workers.types.scores import Beliefs, ScoreRequest, Scores

SHAPES = {
    "q_proj": (576, 576),
    "k_proj": (192, 576),
    "v_proj": (192, 576),
    "o_proj": (576, 576),
    "gate_proj": (1536, 576),
    "up_proj": (1536, 576),
    "down_proj": (576, 1536),
}
"""Of the 135M model."""

SIZES = {"search": 384, "confirm": 1200, "test": 1500}

VARIANCE_AT = (0.3, 0.4)
"""The share at which the Lagrangian genome is predicted this variance of the log-odds; with BIAS a KL of 0.07 nats."""

DISTORTION = 0.7
"""Standard deviation of the logarithm of the hidden weights."""

VARIANCE_OF_NORM = 3.0
"""Shifts of this variance make the log-odds smaller by √2."""

BIAS = 0.25
"""Of a matrix's shift in one direction for all examples, relative to the random part."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticTask:
    """What `real_model.RealModel` has, as far as a search needs it."""

    task: EncodedTask
    space: SearchSpace
    energies: Energies
    scorer: "SyntheticScorer"


def make(seed: int, layers: int = 30) -> SyntheticTask:
    """A problem of its own for every seed."""
    rng = np.random.default_rng(seed)
    matrices = [
        MatrixShape(name=f"{layer}.{kind}", out_features=o, in_features=d, layer=layer, kind=kind)
        for layer in range(layers)
        for kind, (o, d) in SHAPES.items()
    ]
    space = SearchSpace(matrices, 16)
    energies = [_spectrum(min(shape.out_features, shape.in_features), rng) for shape in matrices]
    share, variance = VARIANCE_AT
    unit = variance / Prices(space, energies).loss(lagrangian(space, energies, share))
    energies = [energy * unit for energy in energies]
    example = Example(rows=(Row(ids=(1,), spans=()),), choices=2, label=0, prompt_ids=(1,))
    task = EncodedTask(
        kind="choice",
        splits={name: (example,) * size for name, size in SIZES.items()},
        max_new_tokens=1,
        digest="",
        split_digests={},
    )
    return SyntheticTask(
        task=task, space=space, energies=energies, scorer=SyntheticScorer(space, energies, rng)
    )


def _spectrum(length: int, rng: np.random.Generator) -> NDArray[np.float64]:
    ranks = np.arange(1, length + 1, dtype=np.float64)
    return np.asarray(rng.lognormal(-3, 0.7) * ranks ** -rng.uniform(0.6, 1.6))


class SyntheticScorer:
    """Scores requests like `workers.scoring.scorer.Scorer`."""

    def __init__(self, space: SearchSpace, energies: Energies, rng: np.random.Generator) -> None:
        self._space = space
        self._lost_GL = Prices(space, energies).lost_GL
        self._examples = sum(SIZES.values())
        self._start = dict(zip(SIZES, np.cumsum([0, *SIZES.values()]), strict=False))
        self._weights_G = rng.lognormal(0, DISTORTION, len(space))
        self._table_seed = int(rng.integers(2**32))
        self._odds_E = rng.normal(0, 2.0, self._examples)
        self._right_E = rng.random(self._examples) < 1 / (1 + np.exp(-np.abs(self._odds_E)))

    def score(self, request: ScoreRequest) -> Scores:
        """What the candidate scores."""
        part = self._part(request)
        level_of = [
            gene.levels.index((rank,)) for gene, rank in zip(self._space.genes, request.ranks, strict=True)
        ]
        return self._scores(part, *self._damage(tuple(level_of), part))

    def score_dense(self, request: ScoreRequest) -> tuple[Scores, Beliefs]:
        """The dense model; what it believes nobody asks."""
        part = self._part(request)
        beliefs = Beliefs(
            logp_AK=np.zeros((request.examples, 2), np.float32),
            token_AK=np.zeros((request.examples, 2), np.int32),
            offset_E=np.arange(request.examples + 1),
        )
        return self._scores(part, np.zeros(request.examples), 0.0), beliefs

    def set_beliefs(self, beliefs: object) -> None:
        """It knows them."""

    def _part(self, request: ScoreRequest) -> slice:
        start = int(self._start[request.split])
        return slice(start + request.start, start + request.stop)

    @cached_property
    def _shift_GLE(self) -> NDArray[np.float32]:
        """Shift of the log-odds by each level of each matrix, from what all higher levels would add."""
        rng = np.random.default_rng(self._table_seed)
        table = np.zeros((*self._lost_GL.shape, self._examples), dtype=np.float32)
        for lost_L, count, weight, shift_LE in zip(
            self._lost_GL, self._space.counts_G, self._weights_G, table, strict=True
        ):
            bias = BIAS * rng.normal()
            for level in range(count - 2, -1, -1):
                deviation = np.sqrt(weight * (lost_L[level] - lost_L[level + 1]))
                fresh_E = rng.standard_normal(self._examples, dtype=np.float32) + np.float32(bias)
                shift_LE[level] = shift_LE[level + 1] + np.float32(deviation) * fresh_E
        return table

    def _damage(self, genome: Genome, part: slice) -> tuple[NDArray[np.float64], float]:
        """Shifts of the log-odds and their variance."""
        rows_G = np.arange(len(genome))
        shift_GE = self._shift_GLE[rows_G, list(genome), part]
        variance = float((self._lost_GL[rows_G, list(genome)] * self._weights_G).sum())
        return np.asarray(shift_GE.sum(axis=0, dtype=np.float64)), variance

    def _scores(self, part: slice, shift_E: NDArray[np.float64], variance: float) -> Scores:
        odds_E, right_E = self._odds_E[part], self._right_E[part]
        says_E = (odds_E + shift_E) / np.sqrt(1 + variance / VARIANCE_OF_NORM)
        sign_E = np.where((odds_E > 0) == right_E, 1.0, -1.0)  # the right answer's
        belief_E = 1 / (1 + np.exp(-odds_E))
        kl_E = belief_E * (np.logaddexp(0, -says_E) - np.logaddexp(0, -odds_E)) + (1 - belief_E) * (
            np.logaddexp(0, says_E) - np.logaddexp(0, odds_E)
        )
        quality_E = (says_E * sign_E > 0).astype(np.float64)
        return Scores(
            quality=quality_E,
            exact=quality_E,
            nll_nats=np.logaddexp(0, -says_E * sign_E),
            kl_nats=kl_E.clip(min=0.0),
            answer_tokens=np.ones(len(odds_E)),
            tokens=len(odds_E),
            seconds=0.0,
        )
