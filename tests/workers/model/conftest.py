"""A hub to have models of, gguf files, and Grams of a tiny task."""

import json
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import gguf
import pytest
from huggingface_hub import close_session, constants
from huggingface_hub.utils import _http
from transformers import LlamaForCausalLM, PreTrainedModel

from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.factors.calibration import Calibrator
from ranksieve.workers.factors.grams import Grams
from ranksieve.workers.model.matrices import find_matrices
from ranksieve.workers.types.plan import EncodedTask


@pytest.fixture
def gather(make_task: Callable[..., EncodedTask]) -> Callable[..., Grams]:
    """Calibrates on examples with two answers, whose gradients do not depend on a draw."""
    examples = [example for example in make_task("choice").splits["calibration"] if example.choices == 2]

    def run(
        model: PreTrainedModel, matrices: tuple[MatrixShape, ...] | None = None, budget: int = 10_000
    ) -> Grams:
        with Calibrator(model, matrices or find_matrices(model), "task") as calibrator:
            for _ in calibrator.run("choice", examples, budget, 0):
                pass
        return calibrator.grams

    return run


@pytest.fixture
def save_gguf() -> Callable[[LlamaForCausalLM, Path], None]:
    """Writes a tiny Llama as a gguf file, its tokenizer within."""

    def save(model: LlamaForCausalLM, file: Path) -> None:
        config = model.config
        writer = gguf.GGUFWriter(file, "llama")
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_rope_dimension_count(config.head_dim)
        writer.add_rope_freq_base(10_000.0)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_vocab_size(config.vocab_size)
        writer.add_tokenizer_model("gpt2")
        tokens = ["<unk>", "<s>", "</s>", "ab", *map(chr, range(97, 97 + config.vocab_size - 4))]
        writer.add_token_list(tokens)
        writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens))
        writer.add_token_merges(["a b"])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for name, tensor in model.state_dict().items():
            kind = name.split(".")[-2]
            if kind in heads:  # gguf interleaves the two halves of a rotated head
                tensor = tensor.view(heads[kind], 2, -1, tensor.shape[1]).swapaxes(1, 2).reshape(tensor.shape)
            target = names.get_name(name, try_suffixes=(".weight",))
            assert target is not None
            writer.add_tensor(target, tensor.contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    return save


class Hub(ThreadingHTTPServer):
    """Serves models, as far as the library asks for it.

    `commits`: model → branch, tag or commit → the commit. `files`: commit → path → content. `gated`: who does not show
    `TOKEN` is told that there are files, but not given any. `failing`: the status of every answer. `cut`: a file whose
    connection breaks off in its midst. `held`: one that is given by half, until `go` is set. `seen`: method and path
    of every request.
    """

    ID, TOKEN = "some/model", "hf_of_an_account_that_was_let_in"
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.commits: dict[str, dict[str, str]] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.gated, self.failing, self.cut, self.held = False, 0, "", ""
        self.half, self.go = threading.Event(), threading.Event()
        self.seen: list[tuple[str, str]] = []
        self.agents: set[str] = set()

    def push(self, files: Mapping[str, bytes], *names: str) -> str:
        """Adds a commit to the model, which has these names by now; returns it."""
        commit = sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.files[commit] = dict(files)
        self.commits.setdefault(self.ID, {}).update(dict.fromkeys([*names, commit], commit))
        return commit

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # who asked may have gone
            super().handle_error(request, client_address)

    @property
    def fetched(self) -> Counter[str]:
        """The files whose contents were asked for, with how often."""
        return Counter(
            path.split("/", 5)[-1] for method, path in self.seen if method == "GET" and "resolve" in path
        )


class _Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.server.seen.append((self.command, unquote(path)))
        self.server.agents.add(self.headers["User-Agent"])
        if self.server.failing:
            return self._answer(self.server.failing)
        match [unquote(part) for part in path.strip("/").split("/")]:
            case ["api", "models", owner, name, ("revision" | "tree") as what, revision]:
                self._tell(f"{owner}/{name}", revision, what)
            case ["datasets", owner, name, "resolve", revision, *file] | [
                owner,
                name,
                "resolve",
                revision,
                *file,
            ]:
                self._give(f"{owner}/{name}", revision, "/".join(file))
            case _:
                self._answer(404)

    do_HEAD = do_GET

    def _tell(self, id: str, revision: str, what: str) -> None:
        if (commit := self._commit(id, revision)) is None:
            return
        paths = self.server.files[commit]
        entries = [
            {"type": "file", "path": path, "size": len(content), "oid": sha1(content).hexdigest()}
            for path, content in paths.items()
        ]
        answer = {"id": id, "sha": commit, "siblings": []} if what == "revision" else entries
        self._answer(200, json.dumps(answer).encode(), content_type="application/json")

    def _give(self, id: str, revision: str, path: str) -> None:
        if (commit := self._commit(id, revision)) is None:
            return
        if self.server.gated and self.headers["Authorization"] != f"Bearer {self.server.TOKEN}":
            return self._answer(403 if self.headers["Authorization"] else 401, x_error_code="GatedRepo")
        if (content := self.server.files[commit].get(path)) is None:
            return self._answer(404, x_error_code="EntryNotFound", x_repo_commit=commit)
        if self.command == "GET" and path == self.server.cut:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            at_once = struct.pack("ii", 1, 0)  # lingering for 0 s resets the connection
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            return self.connection.close()
        if self.command == "GET" and path == self.server.held:
            return self._hold(content)
        self._answer(200, content, etag=f'"{sha1(content).hexdigest()}"', x_repo_commit=commit)

    def _hold(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        self.server.half.set()
        self.server.go.wait(400)
        with suppress(OSError):  # who asked may have gone
            self.wfile.write(content[len(content) // 2 :])

    def _commit(self, id: str, revision: str) -> str | None:
        model = self.server.commits.get(id)
        if model is None:
            self._answer(
                401, x_error_code="RepoNotFound"
            )  # the hub does not tell whether there is a private one
        elif revision not in model:
            self._answer(404, x_error_code="RevisionNotFound")
        else:
            return model[revision]
        return None

    def _answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "content_length": str(len(content))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *values: object) -> None:
        """`seen` tells."""


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """Lets the library look for its hub at a port of this machine, with an empty cache and nobody's token."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, path in (("HF_TOKEN_PATH", tmp_path / "token"), ("HF_HUB_CACHE", tmp_path / "hub")):
        monkeypatch.setattr(constants, name, str(path))
        monkeypatch.setenv(name, str(path))  # for processes to come
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", constants.HF_HUB_DISABLE_TELEMETRY)
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setattr(_http, "_GLOBAL_CLIENT_FACTORY", _http._GLOBAL_CLIENT_FACTORY)

    def look(port: int) -> None:
        endpoint = f"http://127.0.0.1:{port}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setenv("HF_ENDPOINT", endpoint)  # which the library reads when it is imported
        template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        close_session()

    yield look
    close_session()


@pytest.fixture
def served(at: Callable[[int], None], llama_folder: Path) -> Iterator[Hub]:
    """A running hub with a model, and beside what is loaded of it what must not be."""
    files = {file.name: file.read_bytes() for file in llama_folder.iterdir()}
    others = {
        "pytorch_model.bin": b"pickled",
        "modeling_evil.py": b"raise",
        "original/model.safetensors": b"another",
    }
    with Hub() as server:
        server.push(files | others, "main")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        at(server.server_port)
        yield server
        server.go.set()
        server.shutdown()
        thread.join()
