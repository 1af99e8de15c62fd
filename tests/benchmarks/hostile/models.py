"""Hostile files of models and tokenizers, named by job files that are otherwise right."""

import json
import os
import struct
from pathlib import Path
from typing import Any

from hostile.inputs import Document, Draw, Input, Make
from hostile.jobs import TEXTS

HUGE = (2**31, 2**40, 2**63, 10**18, 10**30, -1, 0, 1e300, "64", None, [], {})
SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size",
    "head_dim",
)  # fmt: skip


def _model(draw: Draw, files: dict[str, bytes | None]) -> Path:
    """A copy of the right model with some files changed, or left out if None."""
    folder = draw.target.root / f"model-{draw.number}"
    folder.mkdir()
    for file in (draw.target.root / "model").iterdir():
        if file.name not in files:
            os.link(file, folder / file.name)
    for name, content in files.items():
        if content is not None:
            (folder / name).write_bytes(content)
    return folder


def _with_model(draw: Draw, files: dict[str, bytes | None], **changes: Any) -> Input:
    return draw.job({"model": {"path": str(_model(draw, files))}, **changes})


def _config(draw: Draw) -> Document:
    return dict(json.loads((draw.target.root / "model" / "config.json").read_text()))


def _huge_model(draw: Draw) -> Input:
    name = draw.rng.choice(SIZES)
    values = [value for value in HUGE if name != "head_dim" or value is not None]  # null is its default
    if name == "num_key_value_heads":
        values.remove(None)
    config = _config(draw) | {name: draw.rng.choice(values)}
    return _with_model(draw, {"config.json": json.dumps(config).encode()})


def _foreign_code(draw: Draw) -> Input:
    code = {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    for _ in range(draw.rng.randint(0, 50)):
        code = {"nested": [code]} if draw.rng.random() < 0.5 else {"text_config": code}
    name = draw.rng.choice(["config.json", "tokenizer_config.json", "generation_config.json"])
    original = draw.target.root / "model" / name
    content = json.loads(original.read_text()) if original.exists() else {}
    python = b"import os\nos._exit(1)\n"
    return _with_model(draw, {name: json.dumps(content | code).encode(), "evil.py": python})


def _foreign_places(draw: Draw) -> Input:
    path = draw.rng.choice(draw.target.private_files())
    name, value = draw.rng.choice(
        [
            ("speech_config", "../" * 20 + path.lstrip("/")),
            ("transformers_weights", path),
            ("configuration_files", [path]),
            ("backbone", "evil/model"),
            ("tokenizer_file", "/etc/passwd"),
        ]
    )
    return _with_model(draw, {"config.json": json.dumps(_config(draw) | {name: value}).encode()})


def _broken_config(draw: Draw) -> Input:
    contents = [
        b"", b"[]", b"null", b"{", b"\xff\xfe\0", b"{}" * 2, b"[" * 100_000, b'{"a":' * 100_000, b"9" * 10_000,
        b'{"model_type": "llama"', b'{"model_type": "../../evil"}', b'{"model_type": 7}', b'{"model_type": "bert"}',
        b'{"architectures": ["os.system"]}', b" " * 2**23,
    ]  # fmt: skip
    return _with_model(draw, {"config.json": draw.rng.choice(contents)})


def _linked_model(draw: Draw) -> Input:
    name = draw.rng.choice(["config.json", "tokenizer.json", "model.safetensors"])
    folder = _model(draw, {name: None})
    if draw.rng.random() < 0.3:
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to(draw.rng.choice(draw.target.private_files()))
    return draw.submit({"model": {"path": str(folder)}})


def _weights(draw: Draw) -> Input:
    """Weights that are only looked into once a job runs."""
    whole = (draw.target.root / "model" / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header = json.loads(whole[8 : 8 + length])
    name = draw.rng.choice([key for key in header if key != "__metadata__"])
    header[name] |= draw.rng.choice(
        [
            {"shape": [2**40, 2**20]},
            {"data_offsets": [0, 2**60]},
            {"data_offsets": [8, 0]},
            {"dtype": "F4096"},
        ]
    )
    lying = json.dumps(header).encode()
    contents = [
        struct.pack("<Q", 2**62) + whole[8:], struct.pack("<Q", len(lying)) + lying + whole[8 + length :],
        whole[: len(whole) // 2], whole[:8] + b"[" * length + whole[8 + length :], b"", b"\x80\x04cos\nsystem\n.",
        *_misfits(draw, whole[8 : 8 + length], whole[8 + length :]),
    ]  # fmt: skip
    folder = _model(draw, {"model.safetensors": draw.rng.choice(contents)})
    return draw.submit({"model": {"path": str(folder)}})


def _misfits(draw: Draw, head: bytes, values: bytes) -> list[bytes]:
    """Weights whose headers are right, so that only a job finds out: of other names and shapes, and not numbers."""
    header = json.loads(head)
    shapes = {name: part["shape"] for name, part in header.items() if name != "__metadata__"}
    name = draw.rng.choice([name for name, shape in shapes.items() if shape != shape[::-1]])
    renamed = json.dumps({f"x{key}" if key == name else key: part for key, part in header.items()})
    transposed = json.dumps(header | {name: header[name] | {"shape": shapes[name][::-1]}})
    files = [(renamed.encode(), values), (transposed.encode(), values), (head, b"\xff" * len(values))]
    return [struct.pack("<Q", len(changed)) + changed + rest for changed, rest in files]


def _shards(draw: Draw) -> Input:
    shard = draw.rng.choice(["../../model/model.safetensors", *draw.target.private_files(), "x.bin", ""])
    index = json.dumps({"weight_map": {"model.embed_tokens.weight": shard}}).encode()
    folder = _model(draw, {"model.safetensors": None, "model.safetensors.index.json": index})
    return draw.submit({"model": {"path": str(folder)}})


def _pickled(draw: Draw) -> Input:
    folder = _model(
        draw, {"model.safetensors": None, "pytorch_model.bin": b"\x80\x04cposix\nsystem\n(S'id'\ntR."}
    )
    return draw.submit({"model": {"path": str(folder)}})


def _gguf(draw: Draw) -> Input:
    def text(value: bytes) -> bytes:
        return struct.pack("<Q", len(value)) + value

    architecture = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    endless = struct.pack("<I", 9) * 10_000  # arrays of arrays
    bodies = [
        b"", struct.pack("<IQQ", 3, 2**62, 2**62), struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**62),
        struct.pack("<IQQ", 3, 0, 1) + architecture[:-2], struct.pack("<IQQ", 3, 0, 1) + architecture,
        struct.pack("<IQQ", 3, 0, 1) + text(b"x") + struct.pack("<I", 9) + endless,
        struct.pack("<IQQ", 3, 0, 1) + text(b"x") + struct.pack("<IIQ", 9, 0, 2**62),
        struct.pack("<IQQ", 3, 2**20, 1) + architecture, struct.pack("<IQQ", 99, 0, 0), draw.rng.randbytes(5000),
    ]  # fmt: skip
    file = draw.target.root / f"model-{draw.number}.gguf"
    file.write_bytes(b"GGUF" + draw.rng.choice(bodies))
    return draw.job({"model": {"path": str(file)}})


MODELS: tuple[Make, ...] = (
    _huge_model, _foreign_code, _foreign_places, _broken_config, _linked_model, _weights, _shards, _pickled, _gguf,
)  # fmt: skip


def _tokenizer(draw: Draw) -> Document:
    return dict(json.loads((draw.target.root / "model" / "tokenizer.json").read_text()))


def _normalizers(draw: Draw) -> Input:
    letter = draw.rng.choice("film")
    grow = {"type": "Replace", "pattern": {"String": letter}, "content": letter * draw.rng.randint(20, 99)}
    loop = {"type": "Replace", "pattern": {"Regex": "(([a-z ]+)+)+$"}, "content": "x"}
    endless = {"type": "Prepend", "prepend": "film " * 10**6}
    nested = '{"type":"Sequence","normalizers":[' * 10_000 + "]}" * 10_000
    chosen = draw.rng.choice(
        [{"type": "Sequence", "normalizers": [grow] * 6}, endless, loop, {"type": "Evil"}, nested]
    )
    content = json.dumps(_tokenizer(draw) | {"normalizer": "HERE"})
    text = chosen if isinstance(chosen, str) else json.dumps(chosen)
    return _with_model(draw, {"tokenizer.json": content.replace('"HERE"', text).encode()})


def _splits(draw: Draw) -> Input:
    split = {
        "type": "Split",
        "pattern": {"Regex": draw.rng.choice(["(", "(?<=a+)b", "[", "(?R)", "a{99999999}"])},
        "behavior": "Isolated",
        "invert": False,
    }
    return _with_model(
        draw, {"tokenizer.json": json.dumps(_tokenizer(draw) | {"pre_tokenizer": split}).encode()}
    )


def _added_tokens(draw: Draw) -> Input:
    def token(id: Any, content: Any) -> Document:
        return {"id": id, "content": content} | dict.fromkeys(
            ("single_word", "lstrip", "rstrip", "normalized", "special"), False
        )

    tokens = draw.rng.choice(
        [
            [token(2**31, "Rev")],
            [token(2**40, "Rev")],
            [token(-1, "Rev")],
            [token(10**6, "Rev")],
            [token(300, 7)],
            [{"id": 1}],
            "film",
        ]
    )
    return _with_model(
        draw, {"tokenizer.json": json.dumps(_tokenizer(draw) | {"added_tokens": tokens}).encode()}
    )


def _vocabulary(draw: Draw) -> Input:
    tokenizer = _tokenizer(draw)
    model: Document = draw.rng.choice(
        [
            {"vocab": dict.fromkeys(tokenizer["model"]["vocab"], 10**6)},
            {"vocab": dict.fromkeys(tokenizer["model"]["vocab"], 2**40)},
            {"vocab": {}},
            {"vocab": "/etc/passwd"},
            {"type": "Unigram", "vocab": [["<unk>", 1e400]] * 3, "unk_id": 2**40},
            {"type": "BPE", "merges": ["a b"] * 10, "vocab": {}},
            {"type": "Evil"},
        ]
    )
    tokenizer["model"] |= model
    return _with_model(draw, {"tokenizer.json": json.dumps(tokenizer).encode()})


def _broken_tokenizer(draw: Draw) -> Input:
    contents = [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff\xfe\0",
        b"[" * 100_000,
        b'{"version": "1.0"}',
        b"\0" * 2**22,
    ]
    return _with_model(draw, {"tokenizer.json": draw.rng.choice(contents), "tokenizer_config.json": b"{}"})


def _tokenizer_config(draw: Draw) -> Input:
    config = json.loads((draw.target.root / "model" / "tokenizer_config.json").read_text())
    config |= draw.rng.choice(
        [
            {"tokenizer_file": "/etc/passwd"},
            {"vocab_file": "/etc/passwd"},
            {"auto_map": {"AutoTokenizer": ["evil.T", None]}},
            {"tokenizer_class": "RagTokenizer"},
            {"init_inputs": ["/etc/passwd"]},
        ]
    )
    return _with_model(draw, {"tokenizer_config.json": json.dumps(config).encode()})


def _chat_template(draw: Draw) -> Input:
    text = draw.rng.choice([one for one in TEXTS if "{{ text" not in one])
    template = text.replace("NUMBER", str(draw.rng.randint(6, 30))) + "{{ missing.name }}"
    return _with_model(draw, {"chat_template.jinja": template.encode()}, **{"task.chat_template": True})


def _decoder(draw: Draw) -> Input:
    """Tokens that become long texts, in a task whose answers are decoded while the job runs."""
    grow = {"type": "Replace", "pattern": {"String": "o"}, "content": "o" * 50}
    change: Document = {"decoder": {"type": "Sequence", "decoders": [grow] * draw.rng.randint(1, 9)}}
    if draw.rng.random() < 0.5:
        model = _tokenizer(draw)["model"]
        change = {"model": model | {"vocab": model["vocab"] | {"x" * 2**20: model["vocab"].pop("199")}}}
    content = json.dumps(_tokenizer(draw) | change).encode()
    writes = {"task.kind": "generate", "task.choices": None, "task.max_new_tokens": 1}
    return _with_model(draw, {"tokenizer.json": content}, **writes)


TOKENIZERS: tuple[Make, ...] = (
    _normalizers, _splits, _added_tokens, _vocabulary, _broken_tokenizer, _tokenizer_config, _chat_template, _decoder,
)  # fmt: skip
