from collections.abc import Callable

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from transformers import LlamaForCausalLM

from ranksieve.workers.model.rounding import (
    FORMAT,
    packed,
    round_weights,
    rounded,
    rounded_factors,
    scheme_of,
)


def read_back(weight: torch.Tensor, bits: int = 4) -> torch.Tensor:
    """What compressed-tensors makes of the stored parts of a weight."""
    compressor = BaseCompressor.get_value_from_registry(FORMAT)
    restored: torch.Tensor = compressor.decompress(packed(weight, bits), scheme_of(bits))["weight"]
    return restored


@pytest.fixture
def weight() -> torch.Tensor:
    return torch.randn(24, 80, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_rounded_weight_is_what_is_read_back_bit_for_bit(
    weight: torch.Tensor, dtype: torch.dtype, bits: int
) -> None:
    weight = weight.to(dtype)
    assert rounded(weight, bits).dtype == dtype
    assert torch.equal(rounded(weight, bits), read_back(weight, bits))
    assert not torch.equal(rounded(weight, bits), weight)


def test_a_group_of_equal_steps_is_kept_exactly() -> None:
    """-7 to 7 and one more, times 0.5: the scale is 0.5, which no other beats."""
    group = torch.tensor([[*range(-7, 8), -7.5]]) * 0.5
    kept = rounded(group, 4)
    assert torch.equal(kept[0, :15], group[0, :15])
    assert kept[0, 15] == -4.0  # -7.5 is half way, and even


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_slices_of_rounded_factors_are_the_rounded_slices(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    left_RO, right_RD = (torch.randn(70, width, generator=generator).to(dtype) for width in (48, 32))
    left, right = rounded_factors(left_RO, right_RD, 4)
    assert (len(left), len(right)) == (64, 64)
    for rank in (16, 32, 48, 64):
        assert torch.equal(left[:rank].T, read_back(left_RO[:rank].T.contiguous()))
        assert torch.equal(right[:rank], read_back(right_RD[:rank]))


def test_a_width_that_is_no_multiple_of_a_group_stays(weight: torch.Tensor) -> None:
    assert torch.equal(rounded(weight[:, :33], 4), weight[:, :33])
    assert list(packed(weight[:, :33], 4)) == ["weight"]


def test_factors_below_a_group_leave_no_rank() -> None:
    left, right = rounded_factors(torch.ones(15, 32), torch.ones(15, 32), 4)
    assert (left.shape, right.shape) == ((0, 32), (0, 32))


def test_the_choice_of_scales_does_not_depend_on_the_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(300, 160, generator=torch.Generator().manual_seed(1))
    whole = rounded(weight, 4)
    parts = [rounded(weight[row : row + 1, start : start + 16], 4) for row in range(3) for start in (0, 16)]
    assert torch.equal(torch.cat(parts), whole[:3, :32].reshape(6, 16))
    monkeypatch.setattr("ranksieve.workers.model.rounding.CHUNK", 7 * 160)
    assert torch.equal(rounded(weight, 4), whole)


def test_tied_weights_are_rounded_once_and_stay_tied(make_llama: Callable[..., LlamaForCausalLM]) -> None:
    model = make_llama(tie_word_embeddings=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    round_weights(model, 4)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name] if tensor.dim() == 1 else read_back(before[name])), name
