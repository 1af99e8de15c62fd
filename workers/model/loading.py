"""The dense model on disk: its source becomes one folder of safetensors in the working dtype, and is loaded from there.

Every later step (calibration, actors, export) reads that prepared folder, so that a gguf file is
de-quantized once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ranksieve.search.errors import InputError
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.cache.folders import FolderCache, content_key
from ranksieve.workers.machine.devices import given
from ranksieve.workers.model.checks import WEIGHT_FILES
from ranksieve.workers.model.experts import stacked_experts, take_apart
from ranksieve.workers.model.placement import place
from ranksieve.workers.model.sources import head_folder, load_config, load_tokenizer, reading, weights_digest
from ranksieve.workers.types.plan import ModelSource

FORMAT = 1
"""Version of prepared models: what is prepared by other code is not used. Factors have one of their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedModel:
    """A dense model on disk, ready for every worker: safetensors in the working dtype, with its tokenizer."""

    folder: Path
    digest: str
    dtype: str


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """The working dtype; `auto` is bfloat16 where the device multiplies it natively, else float32."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    capability = torch.cpu.get_capabilities()
    native = capability.get("avx512_bf16") or capability.get("amx_bf16") or capability.get("bf16")
    return torch.bfloat16 if native else torch.float32


def embeddings_of(model: PreTrainedModel) -> int:
    """How many tokens it has an embedding for."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight.shape[0]


def prepare_model(source: ModelSource, device: torch.device, cache: FolderCache) -> PreparedModel:
    """Writes the model once as safetensors in the working dtype and returns where.

    Args:
        source: A resolved source.
        device: Where the model will run; decides the dtype `auto`.
        cache: Holds one prepared folder per weights digest and dtype, and what `head_folder` keeps.
    """
    dtype = str(choose_dtype(source.dtype, device)).removeprefix("torch.")
    digest = weights_digest(source)
    key = content_key("model", FORMAT, transformers.__version__, digest, dtype)
    with cache.lock(key):
        if cache.find(key) is None:
            with cache.writing(key) as scratch:
                _write_model(source, load_tokenizer(head_folder(source, cache)), dtype, scratch)
    return PreparedModel(folder=cache.path(key), digest=digest, dtype=dtype)


def weight_bytes(folder: Path) -> int:
    """Bytes of a folder's weight files, or of its factors."""
    return sum(file.stat().st_size for file in folder.glob(WEIGHT_FILES))


def load_prepared(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
    matrices: Sequence[MatrixShape] = (),
    field: str = "model",
) -> PreTrainedModel:
    """Loads a prepared model for inference.

    Args:
        folder: Of the model.
        device: Where it will run.
        dtype: None keeps the stored one.
        matrices: Those that will be worked on: where experts are among them, these are taken apart.
        field: What to blame where weights are missing.

    Raises:
        InputError: Weights are missing.
    """
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype or "auto", trust_remote_code=False, use_safetensors=True, output_loading_info=True
    )
    model = complete(loaded, field)
    take_apart(model, experts_with(model, matrices))
    return on_device(model, device)


def complete(loaded: tuple[PreTrainedModel, dict[str, Any]], field: str) -> PreTrainedModel:
    """The model that transformers loaded, with what it told of that.

    Raises:
        InputError: On `field`, if weights were missing: transformers goes on with random ones in their place.
    """
    model, loading = loaded
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise InputError(
            field,
            f"{len(missing)} weights are not in the files, {missing[0]} among them; fetch or convert it again",
        )
    return model


def experts_with(model: PreTrainedModel, matrices: Sequence[MatrixShape]) -> list[str]:
    """The modules of stacked experts that some of the matrices are in, by name."""
    names = [matrix.name for matrix in matrices]
    return [stack for stack in stacked_experts(model) if any(name.startswith(f"{stack}.") for name in names)]


def on_device(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """The model on the device, or on all of its kind that this process was given, for inference.

    No dropout, no gradients of weights.
    """
    place(model, given(device))
    model.eval()  # type: ignore[no-untyped-call]
    model.requires_grad_(False)
    return model


def _write_model(source: ModelSource, tokenizer: PreTrainedTokenizerBase, dtype: str, folder: Path) -> None:
    config = None if source.kind == "gguf" else _dequantized(load_config(source))
    with reading(source, "cannot load the weights") as (location, options):
        if config is not None:
            options["config"] = config
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            location,
            output_loading_info=True,
            dtype=torch.float32 if source.kind == "gguf" else getattr(torch, dtype),
            trust_remote_code=False,
            use_safetensors=True,
            **options,
        )
    model: Any = complete(loaded, f"model.{source.kind}")
    if source.kind == "gguf":
        _forget_quantization(model)
        model.to(getattr(torch, dtype))
    if getattr(model.config, "quantization_config", None):
        raise InputError(
            f"model.{source.kind}", "its weights cannot be made plain ones; give the model it was made from"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _dequantized(config: PreTrainedConfig) -> PreTrainedConfig:
    """Of a model whose weights will be plain ones, also on a GPU that could compute with them as they are."""
    quantization = getattr(config, "quantization_config", None)
    if isinstance(quantization, dict):
        quantization["dequantize"] = True
    return config


def _forget_quantization(model: Any) -> None:
    """The weights are plain floats now; without this `save_pretrained` refuses a gguf model."""
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
