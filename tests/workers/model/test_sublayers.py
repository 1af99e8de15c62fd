import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import ranksieve.workers.model.switchable
from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.workers.model.matrices import find_matrices
from ranksieve.workers.model.sublayers import Sublayer, find_sublayers, live_ranks
from ranksieve.workers.model.switchable import SwitchableLinear, SwitchableModel

IDS_BL = torch.tensor([[4, 9, 30, 12, 7], [20, 3, 5, 41, 17]])
HIDDEN = 32
SIZES = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": None,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
FLOATING = {"n_embd": HIDDEN, "n_layer": 2, "n_head": 4, "n_positions": 64}

ALONE, WITH_WEIGHTS = None, (None,)
"""What a module returns behind its output: it returns it alone, or a place for attention weights with it."""

LLAMA = {"self_attn": ("o_proj", WITH_WEIGHTS), "mlp": ("down_proj", ALONE)}
GPT2 = {"attn": ("c_proj", WITH_WEIGHTS), "mlp": ("c_proj", ALONE)}
NEOX = {"attention": ("dense", WITH_WEIGHTS), "mlp": ("dense_4h_to_h", ALONE)}
PHI = {"self_attn": ("dense", WITH_WEIGHTS), "mlp": ("fc2", ALONE)}

Outputs = dict[str, tuple[str, tuple[None, ...] | None]]

SKIPPABLE: dict[str, tuple[dict[str, Any], Outputs]] = {
    "llama": (GROUPED, LLAMA),
    "gpt2": (FLOATING, GPT2),  # biases on the outputs
    "gpt_neox": ({"use_parallel_residual": True}, NEOX),
    "phi": ({}, PHI),
}
"""Model type → options, module in the block → its output matrix and what is returned behind it; the last two run
attention and MLP side by side."""


def make(model_type: str, options: dict[str, Any]) -> Any:
    """A model whose matrices and biases are random and not small."""
    config = AutoConfig.for_model(model_type, **{**SIZES, **options})
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = 0.3 * torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(noise if parameter.dim() > 1 else parameter + noise)
    return model.eval().requires_grad_(False)


@pytest.fixture(params=SKIPPABLE)
def model_type(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def pair(
    model_type: str, make_switchable: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> tuple[SwitchableModel, SwitchableModel, tuple[int, ...]]:
    """The model that skips, one that never does, and a candidate: the first attention and the last MLP are dead."""
    options, outputs = SKIPPABLE[model_type]
    model = make(model_type, options)
    skipping, matrices = make_switchable(copy.deepcopy(model))
    monkeypatch.setattr(ranksieve.workers.model.switchable, "find_sublayers", lambda *_: ())
    running, _ = make_switchable(model)
    (attention, (attention_output, _)), (mlp, (mlp_output, _)) = outputs.items()
    gone = {(0, f"{attention}.{attention_output}"), (1, f"{mlp}.{mlp_output}")}
    return skipping, running, tuple(0 if (m.layer, m.kind) in gone else 5 for m in matrices)


def test_the_output_of_every_sublayer_is_found(model_type: str) -> None:
    options, outputs = SKIPPABLE[model_type]
    model = make(model_type, options)
    matrices = find_matrices(model)
    blocks = {matrix.layer: matrix.name.removesuffix(f".{matrix.kind}") for matrix in matrices}
    assert sorted(find_sublayers(model, matrices), key=lambda found: found.name) == sorted(
        (
            Sublayer(
                name=f"{block}.{name}",
                output=f"{block}.{name}.{output}",
                matrices=tuple(m.name for m in matrices if m.name.startswith(f"{block}.{name}.")),
                rest=rest,
            )
            for block in blocks.values()
            for name, (output, rest) in outputs.items()
        ),
        key=lambda expected: expected.name,
    )
    assert not any(module._forward_hooks for module in model.modules())


@torch.inference_mode()
def test_skipping_changes_nothing(pair: tuple[SwitchableModel, SwitchableModel, tuple[int, ...]]) -> None:
    skipping, running, ranks = pair
    dense = running.model(IDS_BL, use_cache=False).logits
    skipping.switch(ranks)
    running.switch(ranks)
    expected = running.model(IDS_BL, use_cache=False).logits
    assert (expected - dense).abs().max() > 0.1
    assert skipping.model(IDS_BL, use_cache=False).logits.equal(expected)
    skipping.switch([DENSE] * len(ranks))
    assert skipping.model(IDS_BL, use_cache=False).logits.equal(dense)


@torch.inference_mode()
def test_nothing_of_a_dead_sublayer_is_computed(
    pair: tuple[SwitchableModel, SwitchableModel, tuple[int, ...]], model_type: str
) -> None:
    skipping, _, ranks = pair
    (attention, (attention_output, _)), (mlp, (mlp_output, _)) = SKIPPABLE[model_type][1].items()
    dead = (f".0.{attention}.", f".1.{mlp}.")
    ran: set[str] = set()
    for name, module in skipping.model.named_modules():
        module.register_forward_pre_hook(lambda _, __, name=name: ran.add(name))
    skipping.switch(ranks)
    skipping.model(IDS_BL, use_cache=False)
    inside = [name for name in ran if any(part in name for part in dead)]
    assert sorted(name.rpartition(".")[2] for name in inside) == sorted([attention_output, mlp_output])
    assert any(f".1.{attention}." in name for name in ran)
    # with a cache the attention runs, on nothing
    for name, module in skipping.model.named_modules():
        if isinstance(module, SwitchableLinear):
            assert module.rank == (0 if any(part in name for part in dead) else 5)


@torch.inference_mode()
def test_generation_with_a_cache(
    pair: tuple[SwitchableModel, SwitchableModel, tuple[int, ...]],
) -> None:
    skipping, running, ranks = pair
    texts = []
    for candidate in (skipping, running):
        candidate.switch(ranks)
        options = {
            "max_new_tokens": 6,
            "do_sample": False,
            "pad_token_id": 2,
            "return_dict_in_generate": True,
        }
        texts.append(candidate.model.generate(IDS_BL, output_logits=True, **options))  # type: ignore[operator]
    assert texts[0].sequences.equal(texts[1].sequences)
    assert torch.stack(texts[0].logits).equal(torch.stack(texts[1].logits))
    assert texts[0].past_key_values.get_seq_length() == texts[1].past_key_values.get_seq_length() == 10
    whole = skipping.model(texts[0].sequences[:, :-1], use_cache=False).logits[:, -1]
    torch.testing.assert_close(texts[0].logits[-1], whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("other_type", "options", "found"),
    [
        ("gemma2", GROUPED, {"mlp"}),  # eager attention returns its weights
        ("opt", {"ffn_dim": 48, "word_embed_proj_dim": HIDDEN}, {"self_attn"}),  # its MLP is no module
        ("bloom", FLOATING, set()),  # its sublayers add the residual themselves
    ],
)
@torch.inference_mode()
def test_what_cannot_be_told_apart_runs_as_before(
    other_type: str, options: dict[str, Any], found: set[str], make_switchable: Callable[..., Any]
) -> None:
    model = make(other_type, options)
    matrices = find_matrices(model)
    assert {sublayer.name.rpartition(".")[2] for sublayer in find_sublayers(model, matrices)} == found
    candidate, _ = make_switchable(copy.deepcopy(model))
    gone = [m for m in matrices if m.layer == 0 and m.out_features == HIDDEN]
    candidate.switch([0 if matrix in gone else DENSE for matrix in matrices])
    for matrix in gone:
        model.get_submodule(matrix.name).weight.zero_()
    torch.testing.assert_close(candidate.model(IDS_BL).logits, model(IDS_BL).logits)


class Feed(nn.Module):
    """A feed-forward sublayer with a twist."""

    def __init__(self, twist: str) -> None:
        super().__init__()
        self.twist = twist
        self.up = nn.Linear(HIDDEN, 48)
        self.down = nn.Linear(48, HIDDEN)
        self.beside = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x_BLD: torch.Tensor, notes: Any = None) -> Any:
        if self.twist == "added in place":
            return self.down(self.up(x_BLD).relu()).add_(self.beside(x_BLD))
        y_BLD = self.down(self.up(x_BLD) + self.beside(x_BLD).sum())
        if self.twist == "notes taken":
            notes["up"] = y_BLD
        return {"scaled": 2 * y_BLD, "weights too": (y_BLD, x_BLD), "on one call": y_BLD}.get(
            self.twist, y_BLD
        )


class Block(nn.Module):
    def __init__(self, twist: str) -> None:
        super().__init__()
        self.feed = Feed(twist)

    def forward(self, x_BLD: torch.Tensor, notes: dict[str, torch.Tensor]) -> torch.Tensor:
        y_BLD = self.feed(x_BLD, notes if self.feed.twist == "notes taken" else None)
        if self.feed.twist == "on one call":
            self.feed.twist = "scaled"
            y_BLD = self.feed(x_BLD)
        y_BLD = y_BLD[0] if isinstance(y_BLD, tuple) else y_BLD
        return x_BLD + y_BLD


class TwistedModel(nn.Module):
    device = torch.device("cpu")

    def __init__(self, twist: str) -> None:
        super().__init__()
        self.tokens = nn.Embedding(48, HIDDEN)
        self.blocks = nn.ModuleList([Block(twist)])

    def forward(self, input_ids: torch.Tensor, use_cache: bool) -> torch.Tensor:
        x_BLD: torch.Tensor = self.tokens(input_ids)
        for block in self.blocks:
            x_BLD = block(x_BLD, {})
        return x_BLD


@pytest.mark.parametrize(
    ("twist", "found"),
    [
        ("none", True),
        ("added in place", False),
        ("scaled", False),
        ("weights too", False),
        ("notes taken", False),
        ("on one call", False),
    ],
)
@pytest.mark.parametrize("inference", [True, False])
def test_only_a_plain_output_counts(twist: str, found: bool, inference: bool) -> None:
    model: Any = TwistedModel(twist)
    with torch.inference_mode(inference):
        assert bool(find_sublayers(model, find_matrices(model))) == found


def test_dead_matrices_go_and_others_stay() -> None:
    kinds = ["a.in", "a.out", "b.in", "b.out"]
    matrices = [
        MatrixShape(name=f"x.0.{kind}", out_features=4, in_features=4, layer=0, kind=kind) for kind in kinds
    ]
    sublayers = [
        Sublayer(name=f"x.0.{s}", output=f"x.0.{s}.out", matrices=(f"x.0.{s}.in", f"x.0.{s}.out"), rest=None)
        for s in "ab"
    ]
    assert live_ranks(matrices, [3, 0, DENSE, 2], sublayers) == (0, 0, DENSE, 2)
    assert live_ranks(matrices, [0, 1, DENSE, 0], sublayers) == (0, 1, 0, 0)
    assert live_ranks(matrices, [3, 0, 1, 0], []) == (3, 0, 1, 0)


def test_without_matrices_nothing_is_run() -> None:
    model: Any = None
    assert find_sublayers(model, ()) == ()


@torch.inference_mode()
def test_an_expert_is_gone_with_its_last_matrix_whoever_is_sent_to_it(
    make_mixture: Callable[..., Any], make_switchable: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_mixture(experts=16)  # more than the tokens that it is looked at with are sent to
    found = find_sublayers(model, find_matrices(model))
    experts = {sublayer.name: sublayer for sublayer in found if ".experts." in sublayer.name}
    assert len(experts) == 2 * 16
    for name, expert in experts.items():
        assert expert.output == f"{name}.down"
        assert expert.matrices == (f"{name}.gate_up", f"{name}.down")
    alone = find_sublayers(model, find_matrices(model, include=["down"]))
    assert {sublayer.matrices for sublayer in alone} == {(f"{name}.down",) for name in experts}
    assert find_sublayers(model, find_matrices(model, include=["gate_up"])) == ()

    skipping, matrices = make_switchable(copy.deepcopy(model))
    monkeypatch.setattr(ranksieve.workers.model.switchable, "find_sublayers", lambda *_: ())
    running, _ = make_switchable(model)
    ranks = [0 if m.kind.endswith(".down") and "1" in m.kind else 5 for m in matrices]
    ran: list[str] = []
    for name, module in skipping.model.named_modules():
        module.register_forward_pre_hook(lambda _, __, name=name: ran.append(name))
    skipping.switch(ranks)
    running.switch(ranks)
    ids_BL = torch.arange(40)[None]
    assert skipping.model(ids_BL, use_cache=False).logits.equal(running.model(ids_BL, use_cache=False).logits)
    reached = [name for name in ran if name.endswith("gate_up")]
    assert reached
    assert not any("1" in name.split("experts.")[1] for name in reached)


def test_a_model_of_outputs_alone_is_skipped_too(make_llama: Callable[..., PreTrainedModel]) -> None:
    model = make_llama()
    matrices = find_matrices(model, include=["o_proj"])
    assert {sublayer.matrices for sublayer in find_sublayers(model, matrices)} == {
        (matrix.name,) for matrix in matrices
    }
