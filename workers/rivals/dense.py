"""The dense model: as it is, with an answer bias, and in 8 and 4 bits."""

from collections.abc import Iterator

from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from ranksieve.workers.rivals.answer_bias import add_answer_bias
from ranksieve.workers.rivals.rival import Rival, Setup, language_model

BIAS_EXAMPLES = 512
"""Most calibration records that an answer bias is fitted to: it has a few numbers."""


def dense(setup: Setup) -> Iterator[Rival]:
    """Yield the dense model, and one with an answer bias if answers are fixed."""
    yield language_model(setup, "dense", setup.load())
    model = setup.load()
    if _biased(setup, model):
        yield language_model(setup, "dense, answer bias", model)


def eight_bits(setup: Setup) -> Iterator[Rival]:
    """Yield the dense model with 8-bit weights in its blocks.

    Source: arXiv 2208.07339 (LLM.int8).
    """
    yield _quantized(setup, "dense, 8 bits", BitsAndBytesConfig(load_in_8bit=True))  # type: ignore[no-untyped-call]


def four_bits(setup: Setup) -> Iterator[Rival]:
    """Yield the dense model with 4-bit weights in its blocks.

    Source: arXiv 2305.14314, section 3 (4-bit NormalFloat).
    """
    config = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=setup.dtype
    )
    yield _quantized(setup, "dense, 4 bits", config)


def _biased(setup: Setup, model: PreTrainedModel) -> bool:
    return add_answer_bias(model, setup.task.splits["calibration"][:BIAS_EXAMPLES], setup.batch_tokens)


def _quantized(setup: Setup, name: str, config: BitsAndBytesConfig) -> Rival:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        setup.folder,
        dtype="auto",
        quantization_config=config,
        device_map={"": setup.device},
        trust_remote_code=False,
        use_safetensors=True,
    )
    model.eval().requires_grad_(requires_grad=False)  # type: ignore[no-untyped-call]
    biased = _biased(setup, model)
    return language_model(setup, f"{name}, answer bias" if biased else name, model)
