"""Sources of dense models, checked without weights: hub ids, folders, gguf files.

Nothing here runs code that comes with a model, and nothing is unpickled. Errors that a damaged or hostile file causes
in transformers are reported as the file's fault, and unbounded sizes are refused.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
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

from ranksieve.search.errors import InputError, RanksieveError
from ranksieve.workers.cache.checksums import Checksums
from ranksieve.workers.cache.folders import FolderCache, content_key
from ranksieve.workers.model import adapter, hub
from ranksieve.workers.model.checks import (
    HEAD_FILES,
    WEIGHT_FILES,
    check_headers,
    check_local,
    holds_weights,
    lists_weights,
    model_files,
)
from ranksieve.workers.model.experts import stacked_experts, take_apart
from ranksieve.workers.model.licence import CARD
from ranksieve.workers.types.plan import ModelSource

Weights = Literal["fetched", "listed", "ignored"]
"""Requirement on a model's weights: here, here or on the hub, or none."""

MOST_WEIGHTS = 150_000
"""Most weights of a model, experts taken apart: 10,000 blocks of seven have 70,000, 60 of 384 experts 46,000."""

MOST_BLOCKS, MOST_ITEMS = 10_000, 2_000_000
"""Most blocks of a gguf file, and most entries in all its lists; reading one takes 700 bytes."""

DEQUANTIZED = ("fp8", "mxfp4")
"""Kinds of quantized weights that transformers can convert to plain ones."""


def resolve(
    source: ModelSource, weights: Weights = "fetched", report: hub.Report = lambda done, total: None
) -> ModelSource:
    """Turn a hub source into a local folder of the hub's cache; check local sources.

    Args:
        source: Where the model is.
        weights: Requirement on its weights.
        report: See `workers.model.hub.fetch`.

    Raises:
        InputError: The model cannot be fetched, is pickled, or asks to run its own code; or no job may use its adapter.
    """
    if source.adapter is not None:
        adapter.check_adapter(source.adapter)
    if source.kind != "hub":
        check_local(source, weights=weights != "ignored")
        if source.kind == "path" and weights != "ignored":
            check_headers(source)
        return source
    wanted = [CARD, *HEAD_FILES, *([WEIGHT_FILES] if weights == "fetched" else [])]
    # Weights in subfolders are of other formats or models, and are not read.
    folder = hub.fetch(source.location, source.revision, wanted, f"*/{WEIGHT_FILES}", report)
    listed = weights == "listed" and (
        holds_weights(folder) or lists_weights(hub.listed(source.location, folder))
    )
    here = replace(source, location=str(folder))  # still a hub source, for errors
    check_local(here, weights=not listed and weights != "ignored")
    if weights == "fetched":
        check_headers(here)
    return replace(here, kind="path", revision=None)


def load_config(source: ModelSource) -> PreTrainedConfig:
    """Read the configuration of a resolved source."""
    with reading(source, "cannot read the model's configuration") as (folder, options):
        if source.kind == "gguf":
            _check_metadata(source)
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False, **options)
    if source.kind != "gguf":
        _refuse_quantized(config, source.field)
    return config


def _check_metadata(source: ModelSource) -> None:
    """Refuse a gguf file with too many blocks or list entries.

    Reading the file makes all of them.
    """
    metadata, _ = read_gguf_metadata(source.location)
    blocks = [value for key, value in metadata.items() if key.endswith(".block_count")]
    if any(not isinstance(value, int) or value > MOST_BLOCKS for value in blocks):
        raise InputError(source.field, f"must have a block_count of at most {MOST_BLOCKS:,}; got {blocks[0]}")
    items = sum(len(value) for value in metadata.values() if isinstance(value, list))
    if items > MOST_ITEMS:
        raise InputError(
            source.field, f"must have at most {MOST_ITEMS:,} entries in its lists; got {items:,}"
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


def load_tokenizer(source: ModelSource, config: PreTrainedConfig | None = None) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a resolved source.

    Args:
        source: A resolved source.
        config: The model's configuration; needed for an export, of whose own one transformers would warn.
    """
    with reading(source, "cannot read the model's tokenizer") as (folder, options):
        if config is not None:
            options["config"] = config
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, **options
        )
    return tokenizer


def head_folder(source: ModelSource, cache: FolderCache) -> ModelSource:
    """Return a source whose configuration and tokenizer are quick to read.

    Reading them from a gguf file takes seconds, so they are converted once.

    Args:
        source: A resolved source.
        cache: Holds one folder per digest.
    """
    if source.kind != "gguf":
        return source
    key = content_key("head", weights_digest(source, cache.checksums), transformers.__version__)
    with cache.lock(key):
        if cache.find(key) is None:
            config, tokenizer = load_config(source), load_tokenizer(source)
            with cache.writing(key) as scratch:
                config.save_pretrained(scratch)
                tokenizer.save_pretrained(scratch)
    return ModelSource(kind="path", location=str(cache.path(key)))


def empty_model(config: PreTrainedConfig) -> PreTrainedModel:
    """Build the model's modules on the meta device: shapes without memory.

    Its experts are taken apart.

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
    """Mode that ends the making of too many modules in this thread.

    It works for every field that asks for them.

    Every linear map and embedding asks `torch.empty` for its weight. Other functions restore states, and must not fail.
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
    """Return whether a model attends to later tokens, such as masked language models.

    Transformers builds these without a causal mask.
    """
    causal = config.is_encoder_decoder or any(
        getattr(config, name, False) for name in ("is_decoder", "causal")
    )
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not causal


def context_length(config: PreTrainedConfig) -> int | None:
    """Return the longest sequence of the model in tokens; None if it names none."""
    text_config = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        value = getattr(text_config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def weights_digest(source: ModelSource, known: Checksums) -> str:
    """Return the SHA-256 over the files that make the model.

    Their names and bytes count, those of its adapter included.

    Args:
        source: A resolved source.
        known: What this node knows of files.
    """
    location = Path(source.location)
    files = [location] if location.is_file() else sorted(model_files(location))
    if source.adapter is not None:
        files += [source.adapter / name for name in adapter.FILES]
    name = content_key("weights", [str(file.resolve()) for file in files])
    digest = hashlib.sha256()
    for file, of_file in zip(files, known.of(name, files, _sha256), strict=True):
        digest.update(file.name.encode() + bytes.fromhex(of_file))
    return digest.hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def reading(source: ModelSource, what: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield transformers' arguments for a source; report its errors as the source's.

    A damaged file may raise anything: a tokenizer's library raises no class of its own, or panics, and types and
    sizes in a configuration or a gguf file are not checked. A gguf file is read alone: transformers would use a
    tokenizer next to it.
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
        panicked = type(error).__name__ == "PanicException"  # raised by a Rust library; cannot be imported
        if not isinstance(error, Exception) and not panicked:
            raise
        raise InputError(source.field, f"{what}: {error}") from error
