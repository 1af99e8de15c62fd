import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from ranksieve.search.errors import ScoringError
from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.search.space.space import SearchSpace
from ranksieve.search.start.seeds import lagrangian
from ranksieve.workers.factors import training
from ranksieve.workers.factors.training import Training, train
from ranksieve.workers.forward.batches import make_batches
from ranksieve.workers.model.switchable import SwitchableLinear, SwitchableModel, switchable_module
from ranksieve.workers.types.plan import EncodedTask, Example

SETTINGS = Training(epochs=30, learning_rate=3e-3, rank_step=4)
BATCH_TOKENS = 64


class Trainee:
    """A tiny model with plain SVD factors, and what is needed to train them."""

    def __init__(self, switchable: SwitchableModel, matrices: tuple[MatrixShape, ...]) -> None:
        self.switchable = switchable
        self.space = SearchSpace(matrices, SETTINGS.rank_step)
        self.energies = [np.square(torch.linalg.svdvals(module.weight).numpy()) for module in self.modules]

    @property
    def modules(self) -> list[SwitchableLinear]:
        return [switchable_module(self.switchable.model, matrix.name) for matrix in self.space.matrices]

    def train(self, task: EncodedTask, settings: Training = SETTINGS, seed: int = 0) -> list[tuple[int, int]]:
        examples = task.splits["calibration"]
        arguments = self.space, self.energies, task.kind, examples, settings, BATCH_TOKENS, seed
        return list(train(self.switchable, *arguments))

    def loss(self, task: EncodedTask, share: float, kl_weight: float = 0.5) -> float:
        return self.loss_at(task, self.space.ranks(lagrangian(self.space, self.energies, share)), kl_weight)

    @torch.no_grad()
    def loss_at(self, task: EncodedTask, ranks: tuple[int, ...], kl_weight: float) -> float:
        examples = task.splits["calibration"]
        choices = max(example.choices for example in examples)
        settings = Training(kl_weight=kl_weight)
        return sum(
            float(training._loss(self.switchable, ranks, task.kind, examples, batch, choices, settings))
            for batch in make_batches(examples, choices, BATCH_TOKENS)
        )

    def factors(self) -> list[torch.Tensor]:
        return [half for module in self.modules for half in (module.left_RO, module.right_RD)]


@pytest.fixture
def make_trainee(
    make_llama: Callable[..., LlamaForCausalLM],
    make_switchable: Callable[..., tuple[SwitchableModel, tuple[MatrixShape, ...]]],
) -> Callable[[], Trainee]:
    return lambda: Trainee(*make_switchable(make_llama()))


@pytest.mark.parametrize("kind", ["choice", "generate", "lm"])
def test_the_loss_falls_at_every_size(
    make_trainee: Callable[[], Trainee], make_task: Callable[..., EncodedTask], kind: str
) -> None:
    trainee, task = make_trainee(), make_task(kind)
    shares = (0.15, 0.3, 0.5)
    before = [trainee.loss(task, share) for share in shares]
    progress = trainee.train(task)
    assert progress == [(step + 1, 30) for step in range(30)]  # 12 examples are one step
    after = [trainee.loss(task, share) for share in shares]
    assert all(late < 0.9 * early for early, late in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", ["choice", "generate"])
def test_the_dense_model_has_no_divergence_from_itself(
    make_trainee: Callable[[], Trainee], make_task: Callable[..., EncodedTask], kind: str
) -> None:
    trainee = make_trainee()
    dense = (DENSE,) * len(trainee.space)
    assert trainee.loss_at(make_task(kind), dense, 1.0) == pytest.approx(0, abs=1e-5)
    assert trainee.loss(make_task(kind), 0.3, 1.0) > 0.1


def test_every_example_counts_the_same_however_long_its_answer(
    make_trainee: Callable[[], Trainee],
    text_example: Callable[..., Example],
    make_task: Callable[..., EncodedTask],
) -> None:
    trainee, task = make_trainee(), make_task("lm")
    dense = (DENSE,) * len(trainee.space)

    def nll(*examples: Example) -> float:
        batch_of: Any = type(task)(
            kind="lm", splits={"calibration": examples}, max_new_tokens=1, digest="", split_digests={}
        )
        return trainee.loss_at(batch_of, dense, 0.0)

    short, long = text_example((4, 5), (6,)), text_example((4, 5), (6, 7, 8, 9))
    assert nll(short, long) == pytest.approx(nll(short) + nll(long), rel=1e-5)
    per_token = [nll(text_example((4, 5, 6, 7, 8)[: 2 + length], (6 + length,))) for length in range(4)]
    assert nll(long) == pytest.approx(sum(per_token) / 4, rel=1e-5)


def test_same_seed_same_factors(
    make_trainee: Callable[[], Trainee], make_task: Callable[..., EncodedTask]
) -> None:
    task, settings = make_task("choice"), Training(epochs=3, rank_step=4)
    first, second, third = make_trainee(), make_trainee(), make_trainee()
    first.train(task, settings)
    second.train(task, settings)
    third.train(task, settings, seed=1)
    pairs = zip(first.factors(), second.factors(), strict=True)
    assert all(ours.equal(theirs) for ours, theirs in pairs)
    assert not all(ours.equal(theirs) for ours, theirs in zip(first.factors(), third.factors(), strict=True))


def test_only_what_small_sizes_keep_is_trained(
    make_trainee: Callable[[], Trainee], make_task: Callable[..., EncodedTask]
) -> None:
    trainee = make_trainee()
    before = [factor.clone() for factor in trainee.factors()]
    weights = [module.weight.clone() for module in trainee.modules]
    trainee.train(make_task("choice"), Training(epochs=4, rank_step=4))
    largest = trainee.space.ranks(lagrangian(trainee.space, trainee.energies, Training().shares[1]))
    for index, (old, new) in enumerate(zip(before, trainee.factors(), strict=True)):
        rank = largest[index // 2]
        assert new.shape == old.shape
        assert not new.requires_grad
        if rank != DENSE:
            assert new[rank:].equal(old[rank:])
    assert any(not new.equal(old) for old, new in zip(before, trainee.factors(), strict=True))
    assert all(module.weight.equal(weight) for module, weight in zip(trainee.modules, weights, strict=True))


def test_factors_keep_their_dtype_and_the_file_they_came_from(
    make_trainee: Callable[[], Trainee], make_task: Callable[..., EncodedTask]
) -> None:
    trainee = make_trainee()
    trainee.switchable.model.to(torch.bfloat16)
    originals = trainee.factors()
    copies = [factor.clone() for factor in originals]
    trainee.train(make_task("choice"), Training(epochs=2, rank_step=4))
    assert {factor.dtype for factor in trainee.factors()} == {torch.bfloat16}
    assert all(original.equal(copy) for original, copy in zip(originals, copies, strict=True))


def test_a_loss_that_is_not_finite_ends_it(
    make_trainee: Callable[[], Trainee], make_task: Callable[..., EncodedTask]
) -> None:
    trainee = make_trainee()
    for module in trainee.modules:
        module.right_RD[0] = torch.nan
    with pytest.raises(ScoringError, match=r"not finite in step 0; effort quick does without it"):
        trainee.train(make_task("choice"), Training(epochs=1, rank_step=4))


def test_sizes_cover_the_range_evenly() -> None:
    low, high = Training().shares
    shares = training._shares((low, high), 83, random.Random(0))
    assert len(shares) == 83
    edges = [low * (high / low) ** (stratum / 8) for stratum in range(9)]
    counts = [sum(below <= share < above for share in shares) for below, above in pairwise(edges)]
    assert set(counts) <= {10, 11}


def test_the_rate_rises_then_falls() -> None:
    rates = [training._rate(step, 40) for step in range(40)]
    assert rates[0] == 0.25
    assert max(rates) == rates[3] == pytest.approx(1 - 3 / 40)
    assert 0 < rates[-1] < 0.03
