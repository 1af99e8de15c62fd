"""The dense model: as it is, with an answer bias, and in 8 and 4 bits."""

from collections.abc import Iterator

import numpy as np
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.rivals.rival import Rival, Setup, class_scores, language_model, stored_bytes
from ranksieve.workers.scoring.offsets import fitted_offsets
from ranksieve.workers.scoring.scorer import Scorer
from ranksieve.workers.types.scores import Floats, ScoreRequest, Scores

BIAS_EXAMPLES = 512
"""Most calibration records that an answer bias is fitted to: it has a few numbers."""


def dense(setup: Setup) -> Iterator[Rival]:
    """Yield the dense model, and one with an answer bias if answers are fixed."""
    model = setup.load()
    yield language_model(setup, "dense", model)
    if setup.chooses:
        yield _biased(setup, "dense", model)


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


def _biased(setup: Setup, name: str, model: PreTrainedModel) -> Rival:
    """Return a model with one number added to each answer.

    See `workers.scoring.offsets`.
    """
    scorer = Scorer(SwitchableModel(model, (), {}), setup.tokenizer, setup.task, setup.batch_tokens)

    def log_likelihoods(request: ScoreRequest) -> Floats:
        _, beliefs = scorer.score_dense(request)
        return beliefs.logp_AK.astype(np.float64)

    fitted = setup.task.splits["calibration"][:BIAS_EXAMPLES]
    offset_C = fitted_offsets(
        log_likelihoods(ScoreRequest(ranks=(), split="calibration", start=0, stop=len(fitted))),
        np.array([example.label for example in fitted]),
    )

    def score(request: ScoreRequest) -> Scores:
        examples = setup.task.splits[request.split][request.start : request.stop]
        logp_EC = log_likelihoods(request) + offset_C
        logp_EC -= np.logaddexp.reduce(logp_EC, axis=1, keepdims=True)
        return class_scores(examples, np.arange(len(offset_C)), logp_EC)

    return Rival(name=f"{name}, answer bias", settings={}, size_bytes=stored_bytes(model), score=score)


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
    return _biased(setup, name, model) if setup.chooses else language_model(setup, name, model)
