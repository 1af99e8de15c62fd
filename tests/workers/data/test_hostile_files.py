"""Hostile model folders and record files: pickles, code of their own, archives. None is taken, nothing is run."""

import gzip
import io
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ranksieve.search.errors import InputError
from ranksieve.workers.data import records
from ranksieve.workers.model.sources import resolve
from ranksieve.workers.types.plan import ModelSource, RecordSource

CONFIG: dict[str, Any] = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
AUTO_MAP = {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}}
SOUND = (2).to_bytes(8, "little") + b"{}"
"""Weights without a tensor."""

EVIL = "import os; os.makedirs('EVIL', exist_ok=True)"


class Bomb:
    """What leaves a folder behind when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.makedirs, ("EVIL",))


def pickled() -> bytes:
    return pickle.dumps(Bomb())


def zipped(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def tarred(name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    return buffer.getvalue()


# What is wrong: the files of the folder, beside a sound config.json, that make it so.
MODELS: dict[str, dict[str, Any]] = {
    "pickled weights": {"pytorch_model.bin": pickled()},
    "a pt file": {"model.pt": pickled()},
    "a numpy file": {"model.npz": zipped("a.npy", pickled())},
    "safetensors in capitals": {"MODEL.SAFETENSORS": pickled()},
    "safetensors with a second ending": {"model.safetensors.bin": pickled()},
    "safetensors in a folder below": {"deep/model.safetensors": b""},
    "no weights": {},
    "a pickle called safetensors": {"model.safetensors": pickled()},
    "empty safetensors": {"model.safetensors": b""},
    "auto_map in config": {"config.json": CONFIG | AUTO_MAP, "model.safetensors": SOUND},
    "auto_map in text_config": {
        "config.json": CONFIG | {"text_config": AUTO_MAP},
        "model.safetensors": SOUND,
    },
    "auto_map in a list": {"config.json": CONFIG | {"parts": [[AUTO_MAP]]}, "model.safetensors": SOUND},
    "auto_map that is null": {"config.json": CONFIG | {"auto_map": None}, "model.safetensors": SOUND},
    "auto_map written in escapes": {
        "config.json": b'{"model_type": "llama", "auto\\u005fmap": {}}',
        "model.safetensors": SOUND,
    },
    "auto_map of the tokenizer": {"tokenizer_config.json": AUTO_MAP, "model.safetensors": SOUND},
    "auto_map beside code": {
        "config.json": CONFIG | AUTO_MAP,
        "modeling_evil.py": EVIL.encode(),
        "model.safetensors": SOUND,
    },
    "config is cut off": {"config.json": b'{"model_type": ', "model.safetensors": SOUND},
    "config is UTF-16": {"config.json": "{}".encode("utf-16"), "model.safetensors": SOUND},
    "config is too deep": {"config.json": b"[" * 100_000, "model.safetensors": SOUND},
    "config is too deep and closed": {
        "config.json": b"[" * 99_999 + b"]" * 99_999,
        "model.safetensors": SOUND,
    },
    "a number that is too long": {"config.json": b'{"a": ' + b"9" * 5000 + b"}", "model.safetensors": SOUND},
    "an adapter": {"adapter_config.json": {"base_model_name_or_path": "/etc"}, "model.safetensors": SOUND},
    "a vocabulary elsewhere": {"tokenizer_config.json": {"vocab": "/etc/passwd"}, "model.safetensors": SOUND},
    "merges elsewhere": {"tokenizer_config.json": {"merges": "/etc/passwd"}, "model.safetensors": SOUND},
    "inputs of a tokenizer": {
        "tokenizer_config.json": {"init_inputs": ["/etc/passwd"]},
        "model.safetensors": SOUND,
    },
    "one input of a tokenizer": {"tokenizer_config.json": {"init_inputs": 5}, "model.safetensors": SOUND},
    "some other file that is there": {
        "tokenizer_config.json": {"extra": [{"lexicon": "/etc/passwd"}]},
        "model.safetensors": SOUND,
    },
    "a vocabulary by its token map": {
        "special_tokens_map.json": {"vocab": "../a"},
        "model.safetensors": SOUND,
    },
    "a file by its token map": {"special_tokens_map.json": {"vocab_file": "/a"}, "model.safetensors": SOUND},
    "a tokenizer by its token map": {
        "special_tokens_map.json": {"tokenizer_file": "a"},
        "model.safetensors": SOUND,
    },
    "weights elsewhere": {
        "model.safetensors.index.json": {"weight_map": {"a": "/srv/other/model.safetensors"}},
        "model.safetensors": SOUND,
    },
    "weights above": {
        "model.safetensors.index.json": {"weight_map": {"a": "../model.safetensors"}},
        "model.safetensors": SOUND,
    },
    "pickles in an index": {
        "model.safetensors.index.json": {"weight_map": {"a": "pytorch_model.bin"}},
        "model.safetensors": SOUND,
    },
    "text in an index": {
        "model.safetensors.index.json": {"weight_map": {"a": "model.safetensors", "b": "weights.txt"}},
        "model.safetensors": SOUND,
    },
    "weights of another name": {
        "config.json": CONFIG | {"transformers_weights": "adapter_model.bin"},
        "model.safetensors": SOUND,
    },
    "weights of another folder": {
        "config.json": CONFIG | {"transformers_weights": "sub/model.safetensors.index.json"},
        "model.safetensors": SOUND,
    },
    "a vocabulary of a fast tokenizer": {
        "tokenizer.json": {"model": {"type": "WordPiece", "vocab": "/etc/passwd"}},
        "model.safetensors": SOUND,
    },
    "a vocabulary that is there": {
        "tokenizer_config.json": {"tokenizer_class": "GemmaTokenizer", "vocab_file": "/etc/passwd"},
        "model.safetensors": SOUND,
    },
    "a version of a tokenizer": {
        "tokenizer_config.json": {"fast_tokenizer_files": ["../../outside/tokenizer.4.0.0.json"]},
        "model.safetensors": SOUND,
    },
    "a version of a configuration": {
        "config.json": CONFIG | {"configuration_files": ["config.4.0.0.json"]},
        "model.safetensors": SOUND,
    },
    "a gguf file elsewhere": {
        "tokenizer_config.json": {"gguf_file": "x.gguf"},
        "model.safetensors": SOUND,
    },
    "maps of bytes": {"byte_maps.json": {"decompose_map": "/etc/passwd"}, "model.safetensors": SOUND},
    "a tokenizer of two": {
        "tokenizer_config.json": {"tokenizer_class": "RagTokenizer"},
        "model.safetensors": SOUND,
    },
    "another model by its token map": {
        "special_tokens_map.json": {"name_or_path": "owner/private", "is_local": False},
        "model.safetensors": SOUND,
    },
    "a backbone": {
        "config.json": CONFIG | {"vision_config": {"backbone": "owner/private"}},
        "model.safetensors": SOUND,
    },
    "labels without end": {"config.json": CONFIG | {"num_labels": 10**12}, "model.safetensors": SOUND},
    "layers without end": {
        "config.json": CONFIG | {"text_config": {"num_hidden_layers": 20_000}},
        "model.safetensors": SOUND,
    },
}

# What is wrong: the name of the file of records and what is in it.
RECORDS: dict[str, tuple[str, bytes]] = {
    "a pickle": ("a.pkl", pickled()),
    "a pickle called jsonl": ("a.jsonl", pickled()),
    "a pickle called csv": ("a.csv", pickled()),
    "a pickle called parquet": ("a.parquet", pickled()),
    "a zip called jsonl": ("a.jsonl", zipped("a.jsonl", b'{"a": 1}')),
    "a zip called parquet": ("a.parquet", zipped("a.parquet", b"PAR1")),
    "a tar called jsonl": ("a.jsonl", tarred("/etc/cron.d/evil")),
    "gzip": ("a.jsonl.gz", gzip.compress(b'{"a": 1}')),
    "gzip called jsonl": ("a.jsonl", gzip.compress(b'{"a": 1}')),
    "a script": ("a.py", EVIL.encode()),
    "no ending": ("a", b'{"a": 1}'),
    "an ending alone": (".jsonl", b'{"a": 1}'),
    "Python for JSON": ("a.jsonl", b"{'a': 1}"),
    "a deep record that is closed": ("a.jsonl", b'{"a":' + b"[" * 99_999 + b"]" * 99_999 + b"}"),
    "a long number": ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}"),
    "a field without end": ("a.csv", b'a\n"' + b"x" * 200_000),
    "half a parquet file": ("a.parquet", b"PAR1" + b"\x00" * 100 + b"PAR1"),
    "a parquet length that lies": ("a.parquet", b"PAR1" + b"\xff\xff\xff\x7fPAR1"),
}


@pytest.fixture(autouse=True)
def _nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "EVIL").exists()


def folder_of(folder: Path, files: dict[str, Any]) -> ModelSource:
    """A folder with these files, beside a sound config.json."""
    for file, content in {"config.json": CONFIG, **files}.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return ModelSource(kind="path", location=str(folder))


@pytest.mark.parametrize("name", MODELS)
def test_no_hostile_model_folder_is_taken(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError) as caught:
        resolve(folder_of(tmp_path / "model", MODELS[name]))
    assert caught.value.field == "model.path"


def test_what_names_nothing_that_is_read_elsewhere_is_taken(tmp_path: Path) -> None:
    """Old models name files of the machine that they were saved on, which transformers does not read."""
    here = str(tmp_path / "model" / "config.json")
    files = {
        "model.safetensors": SOUND,
        "model.safetensors.index.json": {"weight_map": {"a": "model.safetensors"}},
        "tokenizer_config.json": {
            "name_or_path": here,
            "vocab_file": "/of/another/machine/vocab.json",
            "vocab": {"a/b": 0},
            "init_inputs": [],
        },
        "trainer_state.json": {"train_file": here},
        "tokenizer.json": {"model": {"type": "Unigram", "vocab": [["/etc/passwd", 0.5]]}},
        "special_tokens_map.json": {"unk_token": "/"},
        "config.json": CONFIG | {"_name_or_path": here, "num_labels": 2},
    }
    source = folder_of(tmp_path / "model", files)
    assert resolve(source).location == source.location


@pytest.mark.parametrize("name", RECORDS)
def test_no_hostile_record_file_is_taken(tmp_path: Path, name: str) -> None:
    file, content = RECORDS[name]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError) as caught:
        records.read(RecordSource(field="task.data.source", path=tmp_path / file))
    assert caught.value.field == "task.data.source.path"
