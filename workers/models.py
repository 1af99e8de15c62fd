"""Loading the dense model: a hub id, a folder or a gguf file becomes one folder of safetensors.

Every later step (calibration, actors, export) reads that prepared folder, so that a gguf file is
de-quantized once. Nothing here runs code that comes with a model, and nothing is unpickled.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
import transformers
from torch.overrides import TorchFunctionMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.integrations.gguf.reader import read_gguf_metadata
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from search.errors import InputError, RanksieveError
from search.matrix import MatrixShape
from workers import hub
from workers.cache import FolderCache, content_key
from workers.devices import given
from workers.experts_module import stacked_experts, take_apart
from workers.local_models import (
    HEAD_FILES,
    WEIGHT_FILES,
    check_headers,
    check_local,
    holds_weights,
    lists_weights,
    model_files,
)
from workers.placement import place
from workers.plan import ModelSource

Weights = Literal["fetched", "listed", "ignored"]
"""What is asked of a model's weights: that they are here, that they are here or on the hub, or nothing."""

FORMAT = 1
"""Version of prepared models: what is prepared by other code is not used. Factors have one of their own."""

MOST_WEIGHTS = 150_000
"""Of a model, its experts taken apart: 70,000 where 10,000 blocks have seven each, 46,000 where 60 have 384 experts."""

MOST_BLOCKS, MOST_ITEMS = 10_000, 2_000_000
"""That a gguf file may tell of: blocks, and entries in all lists together, each of which takes 700 bytes to read."""

DEQUANTIZED = ("fp8", "mxfp4")
"""Kinds of quantized weights that transformers can make plain ones of."""


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


def resolve(
    source: ModelSource, weights: Weights = "fetched", report: hub.Report = lambda done, total: None
) -> ModelSource:
    """Turns a hub source into a local folder, through the hub's own cache; local sources come back checked.

    Args:
        source: Where the model is.
        weights: So much is asked of its own.
        report: As of `workers.hub.fetch`.

    Raises:
        InputError: The model cannot be had, is pickled, or asks to run its own code.
    """
    if source.kind != "hub":
        check_local(source, weights=weights != "ignored")
        if source.kind == "path" and weights != "ignored":
            check_headers(source)
        return source
    wanted = [*HEAD_FILES, *([WEIGHT_FILES] if weights == "fetched" else [])]
    # Weights in subfolders are of other formats, or other models: nobody would read them.
    folder = hub.fetch(source.location, source.revision, wanted, f"*/{WEIGHT_FILES}", report)
    listed = weights == "listed" and (
        holds_weights(folder) or lists_weights(hub.listed(source.location, folder))
    )
    here = replace(source, location=str(folder))  # still of the hub, which errors are to speak of
    check_local(here, weights=not listed and weights != "ignored")
    if weights == "fetched":
        check_headers(here)
    return replace(here, kind="path", revision=None)


def load_config(source: ModelSource) -> PreTrainedConfig:
    """Reads the configuration of a resolved source."""
    with _reading(source, "cannot read the model's configuration") as (folder, options):
        if source.kind == "gguf":
            _check_metadata(source)
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, **options)
    if source.kind != "gguf":
        _refuse_quantized(config, f"model.{source.kind}")
    return config


def _check_metadata(source: ModelSource) -> None:
    """Of a gguf file: its blocks are made, and its lists read number by number, as soon as it is looked into."""
    metadata, _ = read_gguf_metadata(source.location)
    blocks = [value for key, value in metadata.items() if key.endswith(".block_count")]
    if any(not isinstance(value, int) or value > MOST_BLOCKS for value in blocks):
        raise InputError("model.gguf", f"must have a block_count of at most {MOST_BLOCKS:,}; got {blocks[0]}")
    items = sum(len(value) for value in metadata.values() if isinstance(value, list))
    if items > MOST_ITEMS:
        raise InputError(
            "model.gguf", f"must have at most {MOST_ITEMS:,} entries in its lists; got {items:,}"
        )


def _refuse_quantized(config: PreTrainedConfig, field: str) -> None:
    quantization = getattr(config, "quantization_config", None) or {}
    method = quantization.get("quant_method") if isinstance(quantization, dict) else "in its own way"
    if quantization and method not in DEQUANTIZED:
        raise InputError(
            field,
            f"its weights are quantized ({method}); expected plain ones, or a gguf file: "
            "give the model that it was made from",
        )


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """Reads the tokenizer of a resolved source."""
    with _reading(source, "cannot read the model's tokenizer") as (folder, options):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, **options
        )
    return tokenizer


def head_folder(source: ModelSource, cache: FolderCache) -> ModelSource:
    """Where the configuration and the tokenizer of a resolved source are quick to read.

    To read them out of a gguf file takes seconds, so they are converted once.

    Args:
        source: A resolved source.
        cache: Holds one folder per digest.
    """
    if source.kind != "gguf":
        return source
    key = content_key("head", weights_digest(source), transformers.__version__)
    with cache.lock(key):
        if cache.find(key) is None:
            config, tokenizer = load_config(source), load_tokenizer(source)
            with cache.writing(key) as scratch:
                config.save_pretrained(scratch)
                tokenizer.save_pretrained(scratch)
    return ModelSource(kind="path", location=str(cache.path(key)))


def empty_model(config: PreTrainedConfig) -> PreTrainedModel:
    """The model's modules on the meta device, its experts taken apart: shapes without memory.

    Raises:
        InputError: The configuration is not one of a causal language model.
    """
    try:
        with torch.device("meta"), _FewWeights():
            model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
                config, trust_remote_code=False
            )
    except RanksieveError:
        raise
    except Exception as error:
        raise InputError(
            "model", f"{type(config).__name__} is not the configuration of a causal language model: {error!r}"
        ) from error
    if _reads_on(config):
        raise InputError(
            "model",
            f"{type(config).__name__} is that of an encoder, which reads the tokens that it should predict; expected a "
            "decoder, or is_decoder in a config.json whose weights were trained as one",
        )
    with _FewWeights():
        take_apart(model, stacked_experts(model))
    return model


class _FewWeights(TorchFunctionMode):
    """Ends, in this thread, the making of modules without end, whatever the field is called that asks for them.

    Every linear map and embedding asks `torch.empty` for its weight. Other calls restore states, and must not fail.
    """

    def __init__(self) -> None:
        super().__init__()
        self._left = MOST_WEIGHTS

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.empty:
            self._left -= 1
            if self._left < 0:
                raise InputError(
                    "model", "its configuration asks for far too many modules; check its numbers"
                )
        return func(*args, **(kwargs or {}))


def _reads_on(config: PreTrainedConfig) -> bool:
    """Whether a model attends to later tokens: one of those that fill masks, which transformers builds as it is."""
    causal = config.is_encoder_decoder or any(
        getattr(config, name, False) for name in ("is_decoder", "causal")
    )
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not causal


def embeddings_of(model: PreTrainedModel) -> int:
    """How many tokens it has an embedding for."""
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor)
    return weight.shape[0]


def context_length(config: PreTrainedConfig) -> int | None:
    """Longest sequence the model was made for, in tokens, or None where it names none."""
    text_config = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        value = getattr(text_config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def weights_digest(source: ModelSource) -> str:
    """sha256 over the names and bytes of the files that make the model."""
    location = Path(source.location)
    files = [location] if location.is_file() else sorted(model_files(location))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


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
    with _reading(source, "cannot load the weights") as (location, options):
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


@contextmanager
def _reading(source: ModelSource, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The arguments that transformers reads a resolved source by; whatever it raises is told as the source's fault.

    At a damaged file that is anything: a tokenizer's library raises no kind of its own, or panics, and types and sizes
    that a configuration or a gguf file names are believed as they stand. A gguf file is read alone: transformers would
    take a tokenizer that lies beside it.
    """
    location = Path(source.location)
    try:
        if source.kind == "gguf":
            with TemporaryDirectory() as alone:
                (Path(alone) / location.name).symlink_to(location.resolve())
                yield alone, {"gguf_file": location.name}
        else:
            yield str(location), {}
    except RanksieveError:
        raise
    except BaseException as error:
        panicked = type(error).__name__ == "PanicException"  # of a library in Rust, which cannot be imported
        if not isinstance(error, Exception) and not panicked:
            raise
        raise InputError(f"model.{source.kind}", f"{what}: {error}") from error
