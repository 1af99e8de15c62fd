import pytest
import torch
from transformers import RwkvConfig, RwkvForCausalLM


@pytest.fixture
@torch.inference_mode()
def rwkv() -> RwkvForCausalLM:
    """A model that keeps a state, and no cache."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "attention_hidden_size": 32, "vocab_size": 48, "num_hidden_layers": 2}
    model = RwkvForCausalLM(RwkvConfig(**sizes, intermediate_size=48)).eval()  # type: ignore[arg-type]
    for parameter in model.parameters():
        parameter.copy_(0.3 * torch.randn_like(parameter))
    return model
