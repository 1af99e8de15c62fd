"""Checks of a local model without loading it, and its configuration.

Knows nothing of tensors but the headers of their files. A model that passes may still be refused when its weights are
read.
"""

import errno
import json
import math
import os
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch, fnmatchcase
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ranksieve.search.errors import InputError
from ranksieve.workers.types.plan import ModelSource

Config = dict[str, Any]

WEIGHT_FILES = "*.safetensors"
"""Files that weights are loaded from, in the folder itself."""

LEAST_PARAM_BYTES = {"path": 0.5, "hub": 0.5, "gguf": 0.19}
"""Bytes of a parameter in the most compact format that is read (mxfp4; IQ1_S)."""

HEAD_FILES = ("*.json", "*.model", "*.txt", "*.jinja")
"""Configuration and tokenizer."""

CHAT_TEMPLATES = "additional_chat_templates"
"""Only subfolder of a model whose files are read, too."""

_INDEX = "*.safetensors.index.json"
_ADAPTER = "adapter_config.json"
_TOKENIZER_CONFIG, _SPECIAL_TOKENS = "tokenizer_config.json", "special_tokens_map.json"

_READ_FROM = frozenset({"vocab", "merges", "entity_vocab", "init_inputs", "gguf_file"})
"""Keys whose text tokenizers take for a file's path, or for more files to read."""

_SET_BY_LOADING = frozenset(
    {"name_or_path", "is_local", "local_files_only", "cache_dir", "revision", "token"}
)
"""Keys that loading sets itself before it reads special_tokens_map.json."""

_NAMES = frozenset({"name_or_path", "_name_or_path"})
"""Keys of the model's original folder, which is not read."""

_MOST = {"num_labels": 1_000_000, "num_hidden_layers": 10_000, "n_layer": 10_000}
"""Limits of numbers in a configuration: transformers makes that many objects on reading them."""


def model_files(folder: Path) -> list[Path]:
    """Return the files of a folder that make the model, in no order."""
    patterns = (WEIGHT_FILES, *HEAD_FILES)
    return [file for file in folder.iterdir() if any(fnmatchcase(file.name, pattern) for pattern in patterns)]


def holds_weights(folder: Path) -> bool:
    """Return whether a folder has weights that may be loaded."""
    return any(folder.glob(WEIGHT_FILES))


def lists_weights(files: Iterable[str]) -> bool:
    """Return whether a repository's file paths include loadable weights.

    Those in a subfolder are not loaded.
    """
    return any(fnmatch(file, WEIGHT_FILES) and "/" not in file for file in files)


def check_local(source: ModelSource, parsed_bytes: float = math.inf, *, weights: bool = True) -> Config:
    """Refuse a local model that no job may use, and return its configuration.

    These are missing, pickled or unreadable models, and models with code of their own.

    Args:
        source: A folder or a gguf file.
        parsed_bytes: Larger JSON files of a folder are not parsed; its config.json must not be larger.
        weights: Whether a folder must hold weights.

    Returns:
        The folder's config.json; empty for a gguf file.

    Raises:
        InputError: The model is refused; says why.
    """
    location, field = Path(source.location), source.field
    try:
        if source.kind == "gguf":
            _check_gguf(location, field)
            return {}
        return _check_folder(location, field, parsed_bytes, weights)
    except PermissionError as error:
        raise InputError(
            field, f"this server may not read {error.filename}; change its permissions"
        ) from error


def check_headers(source: ModelSource) -> None:
    """Refuse a folder with a weight file whose header does not fit it.

    The file is cut off, not fetched, or something else.

    Args:
        source: A folder that passed `check_local`.

    Raises:
        InputError: Names the file.
    """
    for file in sorted(Path(source.location).glob(WEIGHT_FILES)):
        try:
            with safe_open(file, framework="numpy"):
                pass
        except SafetensorError as error:
            raise InputError(
                source.field,
                f"{file} is damaged ({error}), it has {file.stat().st_size:,} bytes; fetch or save it again",
            ) from error


def check_sizes(source: ModelSource, params: int) -> None:
    """Refuse a model whose weight files are too small for its configuration.

    Loading it would allocate the weights that the files lack. Nothing is checked where no weight files are.

    Args:
        source: A local source; its kind is the field's name in the job file.
        params: Parameters of the model that the configuration describes.

    Raises:
        InputError: Names both numbers.
    """
    location = Path(source.location)
    files = location.glob(WEIGHT_FILES) if location.is_dir() else [location]
    held = sum(file.stat().st_size for file in files)
    if held and params * LEAST_PARAM_BYTES[source.kind] > held:
        raise InputError(
            source.field,
            f"its configuration describes {params:,} parameters, its weight files hold {held:,} bytes; "
            "fetch or save the model again",
        )


def _check_gguf(location: Path, field: str) -> None:
    if location.is_dir():
        raise InputError(field, f"{location} is a folder; name the gguf file in it")
    if not location.is_file():
        raise InputError(field, f"no such file: {location}")
    with location.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise InputError(field, f"{location} is not a gguf file (it does not start with GGUF)")


def _check_folder(location: Path, field: str, parsed_bytes: float, weights: bool) -> Config:
    if (location / _ADAPTER).is_file():
        raise InputError(
            field,
            f"{location} holds a LoRA adapter ({_ADAPTER}), expected a whole model: name its base model as model.hub "
            f"or model.path, and this folder as model.adapter; if it is merged already, remove {_ADAPTER}",
        )
    if not (location / "config.json").is_file():
        raise InputError(
            field, f"expected a folder with config.json, as save_pretrained writes; got {location}"
        )
    if weights and not holds_weights(location):
        raise InputError(
            field,
            f"{location} holds no .safetensors weights, as save_pretrained writes them; pickled ones are never loaded: "
            "convert them if there are any",
        )
    files = sorted(model_files(location))
    for file in files:
        if not file.is_file():  # opening a named pipe would wait for its writer
            raise InputError(field, f"{file.name} is not a regular file; replace it by one")
        if not os.access(file, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
    small = [file for file in files if file.suffix == ".json" and file.stat().st_size <= parsed_bytes]
    contents = {file.name: _harmless(file, field) for file in small}
    if "config.json" not in contents:
        raise InputError(field, f"config.json has more than {parsed_bytes:,} bytes, too many to look into")
    config = contents["config.json"]
    if not isinstance(config, dict):
        raise InputError(field, f"config.json must hold a JSON object, got {type(config).__name__}")
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for name, most in _MOST.items():
            if isinstance(got := part.get(name), int | float) and not got <= most:
                raise InputError(field, f"config.json must have a {name} of at most {most:,}; got {got}")
    return config


def _harmless(file: Path, field: str) -> Any:
    """Return a JSON file's content; refuse it if it names code or outside files."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        asks_for_code = isinstance(content, dict) and _mentions_auto_map(content)
        elsewhere = next(_elsewhere(file.name, content), None)
    except (ValueError, RecursionError) as error:
        raise InputError(field, f"{file.name} is not valid JSON: {error}") from error
    if asks_for_code:
        raise InputError(
            field, f"{file.name} has an auto_map: the model asks to run its own code, which is never done"
        )
    if elsewhere is not None:
        raise InputError(
            field,
            f"{file.name} names {elsewhere!r} to read; expected nothing but files of the folder itself, and weights in "
            "safetensors only: save the model again",
        )
    return content


def _elsewhere(name: str, content: Any) -> Iterator[str]:
    """Yield what a JSON file makes transformers read or fetch outside the folder.

    Known keys cover most of that. For other keys, no text may be the path of an existing file or go up.
    """
    if not isinstance(content, dict):
        return
    shards = content.get("weight_map")
    if fnmatch(name, _INDEX) and isinstance(shards, dict):
        yield from (str(shard) for shard in shards.values() if not _is_shard(shard))
    weights = content.get("transformers_weights")
    if weights is not None and not _is_shard(str(weights).removesuffix(".index.json")):
        yield str(weights)
    if content.get("configuration_files"):  # replaces the config.json that is checked here
        yield str(content["configuration_files"])
    if content.get("model_type") == "rag" or str(content.get("tokenizer_class")).startswith("Rag"):
        yield "models in folders of their own"
    if name.startswith("tokenizer."):  # a fast tokenizer, or a version of it
        model = content.get("model")
        yield from _paths_of_vocabulary(model if isinstance(model, dict) else {})
        return
    if name in (_TOKENIZER_CONFIG, _SPECIAL_TOKENS):
        yield from _paths_of_vocabulary(content)
    if name == _SPECIAL_TOKENS:  # which overrides the folder's files
        yield from (key for key in content if key in _SET_BY_LOADING)
        yield from (str(value) for key, value in content.items() if key.endswith("_file") and value)
    if name.startswith("train") or name.endswith("results.json"):  # records of a training
        return
    texts = [(key, text) for key, text in _texts(content) if "/" in text]
    yield from (text for key, text in texts if key == "backbone")  # would be fetched
    yield from (text for key, text in texts if key not in _NAMES and _leads_out(text))


def _paths_of_vocabulary(content: dict[str, Any]) -> Iterator[str]:
    for key in sorted(_READ_FROM & content.keys()):
        if isinstance(content[key], str) or (key == "init_inputs" and content[key]):
            yield str(content[key])


def _leads_out(text: str) -> bool:
    return ".." in text.split("/") or os.path.isfile(text)


def _is_shard(name: Any) -> bool:
    return isinstance(name, str) and lists_weights([name])


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield all texts inside a value, each with its key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _texts(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part, key)


def _mentions_auto_map(value: Any) -> bool:
    if isinstance(value, dict):
        return "auto_map" in value or any(map(_mentions_auto_map, value.values()))
    if isinstance(value, list):
        return any(map(_mentions_auto_map, value))
    return False
