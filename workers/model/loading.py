"""Dense model on disk: one folder of safetensors in the working dtype.

Every later step (calibration, actors, export) loads that prepared folder, so that a gguf file is de-quantized once.
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
from ranksieve.workers.model.adapter import merge_adapter
from ranksieve.workers.model.checks import WEIGHT_FILES
from ranksieve.workers.model.experts import stacked_experts, take_apart
from ranksieve.workers.model.placement import place
from ranksieve.workers.model.sources import head_folder, load_config, load_tokenizer, reading, weights_digest
from ranksieve.workers.types.plan import ModelSource

FORMAT = 1
"""Version of prepared models; those of other versions are not used. Factors have a version of their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedModel:
    """Dense model on disk: safetensors in the working dtype, with its tokenizer."""

    folder: Path
    digest: str
    dtype: str


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the working dtype; `auto` is bfloat16 on devices with native support."""
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    capability = torch.cpu.get_capabilities()
    native = capability.get("avx512_bf16") or capability.get("amx_bf16") or capability.get("bf16")
    return torch.bfloat16 if native else torch.float32


def embeddings_of(model: PreTrainedModel) -> int:
    """Return the number of tokens with an embedding."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight.shape[0]


def prepare_model(source: ModelSource, device: torch.device, cache: FolderCache) -> PreparedModel:
    """Write the model once as safetensors in the working dtype; return its place.

    Args:
        source: A resolved source.
        device: Where the model will run; decides the dtype `auto`.
        cache: Holds one prepared folder per weights digest and dtype, and the folders of `head_folder`.
    """
    dtype = str(choose_dtype(source.dtype, device)).removeprefix("torch.")
    digest = weights_digest(source, cache.checksums)
    key = content_key("model", FORMAT, transformers.__version__, digest, dtype)
    with cache.lock(key):
        if cache.find(key) is None:
            with cache.writing(key) as scratch:
                _write_model(source, load_tokenizer(head_folder(source, cache)), dtype, scratch)
    return PreparedModel(folder=cache.path(key), digest=digest, dtype=dtype)


def weight_bytes(folder: Path) -> int:
    """Return the bytes of a folder's weight files, or of its factors."""
    return sum(file.stat().st_size for file in folder.glob(WEIGHT_FILES))


def load_prepared(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
    matrices: Sequence[MatrixShape] = (),
    field: str = "model",
) -> PreTrainedModel:
    """Load a prepared model for inference.

    Args:
        folder: Folder of the model.
        device: Where it will run.
        dtype: None keeps the stored one.
        matrices: Matrices to work on; stacked experts among them are taken apart.
        field: Field to name if weights are missing.

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
    """Return a model that transformers loaded, if it has all its weights.

    Raises:
        InputError: On `field`, if weights are missing: transformers would use random ones.
    """
    model, loading = loaded
    if loading["missing_keys"]:
        missing = sorted(loading["missing_keys"])
        raise InputError(
            field,
            f"{len(missing)} weights are missing in the files, such as {missing[0]}; fetch or convert it again",
        )
    return model


def experts_with(model: PreTrainedModel, matrices: Sequence[MatrixShape]) -> list[str]:
    """Return the names of the modules of stacked experts that hold these matrices."""
    names = [matrix.name for matrix in matrices]
    return [stack for stack in stacked_experts(model) if any(name.startswith(f"{stack}.") for name in names)]


def on_device(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """Place a model for inference on a device, or on all given ones of its kind.

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
    model: Any = complete(loaded, source.field)
    if source.kind == "gguf":
        _forget_quantization(model)
        model.to(getattr(torch, dtype))
    if getattr(model.config, "quantization_config", None):
        raise InputError(
            source.field,
            "its quantized weights cannot be converted to plain ones; give the model it was made from",
        )
    if source.adapter is not None:
        model = merge_adapter(model, source.adapter)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _dequantized(config: PreTrainedConfig) -> PreTrainedConfig:
    """Make a configuration convert quantized weights to plain ones.

    This holds on a GPU, too, that could compute with quantized weights.
    """
    quantization = getattr(config, "quantization_config", None)
    if isinstance(quantization, dict):
        quantization["dequantize"] = True
    return config


def _forget_quantization(model: Any) -> None:
    """Remove the quantization settings; `save_pretrained` refuses a gguf model else."""
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
