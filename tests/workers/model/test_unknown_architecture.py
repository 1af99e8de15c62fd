"""An architecture that nothing here has heard of."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from ranksieve.search.errors import InputError
from ranksieve.workers.factors.decomposition import factor
from ranksieve.workers.factors.grams import Grams
from ranksieve.workers.model.matrices import find_matrices, weight_OD
from ranksieve.workers.model.switchable import SwitchableModel

IDS_BL = torch.tensor([[4, 9, 30, 12, 7], [20, 3, 5, 41, 17]])
HIDDEN, INNER, VOCABULARY = 32, 48, 48


class OwnConfig(PreTrainedConfig):
    model_type = "own"


class OwnBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(HIDDEN, INNER)
        self.narrow = nn.Linear(INNER, HIDDEN)
        self.experts = nn.ModuleList([nn.Linear(HIDDEN, HIDDEN) for _ in range(2)])

    def forward(self, x_BLD: torch.Tensor, routed: bool) -> torch.Tensor:
        x_BLD = x_BLD + self.narrow(self.wide(x_BLD).relu())
        if not routed:
            return x_BLD + x_BLD @ self.experts[0].weight.T + self.experts[1](x_BLD)
        first_BL = x_BLD[..., 0] > 0
        y_BLD = torch.empty_like(x_BLD)
        y_BLD[first_BL], y_BLD[~first_BL] = (
            self.experts[0](x_BLD[first_BL]),
            self.experts[1](x_BLD[~first_BL]),
        )
        return x_BLD + y_BLD


class OwnModel(PreTrainedModel):
    config_class = OwnConfig

    def __init__(self, config: OwnConfig) -> None:
        super().__init__(config)
        self.routed = True
        self.tokens = nn.Embedding(VOCABULARY, HIDDEN)
        self.stack = nn.ModuleList([OwnBlock() for _ in range(3)])
        self.head = nn.Linear(HIDDEN, VOCABULARY)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        return self.tokens

    def forward(self, input_ids: torch.Tensor, use_cache: bool = False) -> CausalLMOutput:
        x_BLD = self.tokens(input_ids)
        for block in self.stack:
            x_BLD = block(x_BLD, self.routed)
        return CausalLMOutput(logits=self.head(x_BLD))


@pytest.fixture
def own_model() -> OwnModel:
    torch.manual_seed(0)
    model = OwnModel(OwnConfig()).requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=0.3)
    return model


def test_unknown_architecture_works(own_model: OwnModel, gather: Callable[..., Grams]) -> None:
    kinds = ("wide", "narrow", "experts.0", "experts.1")
    names = [f"stack.{layer}.{kind}" for layer in range(3) for kind in kinds]
    assert [matrix.name for matrix in find_matrices(own_model)] == names
    matrices = find_matrices(own_model, exclude=["experts.*"])
    grams = gather(own_model, matrices)
    pairs = {}
    for matrix in matrices:
        weight = weight_OD(own_model.get_submodule(matrix.name))  # type: ignore[arg-type]
        factors = factor(weight, HIDDEN, *grams.of(matrix.name))
        pairs[matrix.name] = (factors.left_RO, factors.right_RD)
    expected = own_model(IDS_BL).logits
    SwitchableModel(own_model, matrices, pairs).switch([HIDDEN] * len(matrices))
    torch.testing.assert_close(own_model(IDS_BL).logits, expected, rtol=1e-3, atol=1e-3)


def route_nothing(model: OwnModel) -> None:
    model.routed = False


def run_without_gradients(model: OwnModel) -> None:
    block: Any = model.stack[1]
    forward = block.forward
    block.forward = lambda x_BLD, routed: torch.no_grad()(forward)(x_BLD, routed)


def take_the_largest(model: OwnModel) -> None:
    """As a router does that only decides which expert is taken."""
    block: Any = model.stack[1]
    block.forward = lambda x_BLD, routed: x_BLD + block.wide(x_BLD).argmax(dim=-1, keepdim=True)


@pytest.mark.parametrize(
    ("change", "include", "message"),
    [
        (id, ["*"], r"model\.include: stack\.0\.experts\.0 cannot .*: it ran on .* in model\.exclude"),
        (route_nothing, ["*"], r"stack\.0\.experts\.0 cannot be calibrated: it was not called"),
        (
            run_without_gradients,
            ["wide", "narrow"],
            r"stack\.1\.wide cannot be calibrated: it runs without gradients; list it in model\.exclude",
        ),
        (
            take_the_largest,
            ["stack.1.wide", "stack.2.wide"],
            r"stack\.1\.wide cannot be calibrated: it has no gradient of the loss",
        ),
    ],
    ids=["some tokens", "not called", "no gradients", "no gradient of the loss"],
)
def test_matrix_that_cannot_be_calibrated_is_named(
    own_model: OwnModel,
    gather: Callable[..., Grams],
    change: Callable[[OwnModel], object],
    include: list[str],
    message: str,
) -> None:
    change(own_model)
    with pytest.raises(InputError, match=message):
        gather(own_model, find_matrices(own_model, include))
