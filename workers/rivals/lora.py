"""The dense model with low-rank adapters (LoRA), tuned and merged.

Source: arXiv 2106.09685; all linear maps of the blocks as in arXiv 2305.14314, section 4.
"""

from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from ranksieve.workers.rivals.rival import Rival, Setup, language_model
from ranksieve.workers.rivals.tuning import best_tuned, tune

RANK, ALPHA = 16, 32
LEARNING_RATES = (2e-4, 1e-3)


def lora(setup: Setup) -> Iterator[Rival]:
    """Yield the dense model with tuned adapters, merged into its weights."""
    from peft import LoraConfig, get_peft_model

    def tuned(rate: float) -> PreTrainedModel:
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
        with torch.random.fork_rng():  # peft draws from torch's global generator
            torch.manual_seed(setup.seed)
            model = setup.load()
            adapted = get_peft_model(model, config)
        tune(setup, model, [one for one in model.parameters() if one.requires_grad], rate)
        merged: PreTrainedModel = adapted.merge_and_unload()
        return merged

    model, rate = best_tuned(setup, tuned, LEARNING_RATES)
    yield language_model(setup, "dense, LoRA-tuned", model, {"learning_rate": rate})
