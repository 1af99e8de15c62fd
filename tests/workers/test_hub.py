"""A hub of its own, over HTTP: a model of the real kind, asked for by the real library."""

import json
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch
from huggingface_hub import close_session, constants, get_session
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import _http
from transformers import LlamaForCausalLM

from search.errors import InputError
from service import wiring
from service.settings import Settings
from workers import hub
from workers.cache import FolderCache
from workers.machine import machine_fault
from workers.models import Weights, load_config, load_prepared, load_tokenizer, prepare_model, resolve
from workers.plan import ModelSource

CPU = torch.device("cpu")
ID = "some/model"
TOKEN = "hf_of_an_account_that_was_let_in"
SILENT_S = 0.05


class Hub(ThreadingHTTPServer):
    """Serves models, as far as the library asks for it.

    `commits`: model → branch, tag or commit → the commit. `files`: commit → path → content. `gated`: who does not show
    `TOKEN` is told that there are files, but not given any. `failing`: the status of every answer. `cut`: files whose
    connection breaks off in their midst. `seen`: method and path of every request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.commits: dict[str, dict[str, str]] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.gated, self.failing, self.cut = False, 0, ""
        self.seen: list[tuple[str, str]] = []
        self.agents: set[str] = set()

    def push(self, files: Mapping[str, bytes], *names: str) -> str:
        """Adds a commit to the model, which has these names by now; returns it."""
        commit = sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.files[commit] = dict(files)
        self.commits.setdefault(ID, {}).update(dict.fromkeys([*names, commit], commit))
        return commit

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
            case [owner, name, "resolve", revision, *file]:
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
        told = {"id": id, "sha": commit, "siblings": []} if what == "revision" else entries
        self._answer(200, json.dumps(told).encode(), content_type="application/json")

    def _give(self, id: str, revision: str, path: str) -> None:
        if (commit := self._commit(id, revision)) is None:
            return
        if self.server.gated and self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self._answer(403 if self.headers["Authorization"] else 401, x_error_code="GatedRepo")
        content = self.server.files[commit][path]
        if self.command == "GET" and path == self.server.cut:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            at_once = struct.pack("ii", 1, 0)  # lingering for 0 s resets the connection
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            return self.connection.close()
        self._answer(200, content, etag=f'"{sha1(content).hexdigest()}"', x_repo_commit=commit)

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
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", constants.HF_HUB_DISABLE_TELEMETRY)
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    monkeypatch.setattr(_http, "_GLOBAL_CLIENT_FACTORY", _http._GLOBAL_CLIENT_FACTORY)

    def look(port: int) -> None:
        endpoint = (
            f"http://127.0.0.1:{port}"  # as HF_ENDPOINT says, which the library reads when it is imported
        )
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
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
        server.shutdown()
        thread.join()


def source(revision: str | None = None, id: str = ID) -> ModelSource:
    return ModelSource(kind="hub", location=id, revision=revision)


def refused(weights: Weights = "fetched", **options: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        resolve(source(**options), weights)
    return caught.value


def fault(error: InputError) -> bool:
    """Whether a job that meets it is tried again."""
    return machine_fault(error) is not None


def test_an_estimate_takes_configuration_and_tokenizer_only(served: Hub, llama_folder: Path) -> None:
    local = resolve(source(), "ignored")

    assert load_config(local).vocab_size == 48
    assert load_tokenizer(local).tokenize("w1 w2") == ["w1", "w2"]
    heads = {file.name for file in llama_folder.iterdir()} - {"model.safetensors"}
    assert served.fetched == dict.fromkeys(heads, 1)


def test_a_submission_looks_at_the_list_of_files(served: Hub) -> None:
    resolve(source(), "listed")

    asked = Counter(path.split("/")[5] for _, path in served.seen if path.startswith("/api/models/"))
    assert asked == {"revision": 1, "tree": 1}
    assert "model.safetensors" not in served.fetched


@pytest.mark.parametrize("weights", ["listed", "fetched"])
def test_a_model_without_weights_of_its_own_is_refused_by_submission_and_job(
    served: Hub, weights: Weights
) -> None:
    files = served.files[served.commits[ID]["main"]]
    served.push({path: content for path, content in files.items() if path != "model.safetensors"}, "main")

    error = refused(weights)

    assert error.field == "model.hub"
    assert "holds no .safetensors weights, as save_pretrained writes them" in error.message
    resolve(source(), "ignored")


def test_a_job_fetches_the_weights_and_what_is_loaded_with_them(
    served: Hub, llama_folder: Path, make_llama: Callable[[], LlamaForCausalLM], tmp_path: Path
) -> None:
    resolve(source(), "listed")
    local = resolve(source())
    prepared = prepare_model(local, CPU, FolderCache(tmp_path / "cache"))

    assert served.fetched == {file.name: 1 for file in llama_folder.iterdir()}
    loaded, expected = (
        load_prepared(prepared.folder, CPU, torch.float32).state_dict(),
        make_llama().state_dict(),
    )
    assert all(torch.allclose(loaded[name], weight, atol=0.01) for name, weight in expected.items())
    served.seen.clear()
    assert resolve(source()) == local
    assert [path for _, path in served.seen] == [f"/api/models/{ID}/revision/main"]


def test_each_revision_is_a_model_of_its_own(served: Hub) -> None:
    files = served.files[served.commits[ID]["main"]]
    commit = served.push(files | {"README.txt": b"the second"}, "v2", "refs/pr/3")
    first, second = resolve(source()).location, resolve(source("v2")).location

    assert first != second
    assert (Path(second) / "README.txt").read_text() == "the second"
    assert resolve(source("refs/pr/3")).location == resolve(source(commit)).location == second


@pytest.mark.parametrize("weights", ["ignored", "listed", "fetched"])
def test_what_the_hub_does_not_have_is_told(served: Hub, weights: Weights) -> None:
    missing = refused(weights, id="some/other")
    assert (missing.field, fault(missing)) == ("model.hub", False)
    assert "there is no model 'some/other', or it is private; check the id, or give" in missing.message

    for revision in ("v3", "0" * 40):
        unknown = refused(weights, revision=revision)
        assert (unknown.field, fault(unknown)) == ("model.revision", False)
        assert unknown.message == f"{ID!r} has no {revision!r}; give a branch, tag or commit of it"


@pytest.mark.parametrize("token", [None, "hf_of_somebody_else"])
def test_a_gated_model_is_for_those_who_were_let_in(
    served: Hub, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    served.gated = True
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)

    error = refused("listed")

    assert (error.field, fault(error)) == ("model.hub", False)
    assert "'some/model' is gated" in error.message
    assert "as HF_TOKEN" in error.message
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert (Path(resolve(source()).location) / "model.safetensors").is_file()


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_that_fails_is_asked_again_later(served: Hub, status: int) -> None:
    served.failing = status
    error = refused()
    assert (error.field, fault(error)) == ("model.hub", True)
    assert f"could not be fetched from {constants.ENDPOINT}: HfHubHTTPError: " in error.message
    assert f"{status} " in error.message


def test_so_is_one_that_breaks_off(served: Hub) -> None:
    resolve(source(), "ignored")
    served.cut = "model.safetensors"
    error = refused()
    assert (error.field, fault(error)) == ("model.hub", True)
    assert "ReadError" in error.message
    served.cut = ""
    assert (Path(resolve(source()).location) / "model.safetensors").is_file()


def test_where_nothing_listens_the_cache_has_to_do(served: Hub, at: Callable[[int], None]) -> None:
    resolve(source(), "listed")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # nobody else's, and it does not listen
        at(nobody.getsockname()[1])

        resolve(source(), "ignored")
        resolve(source(), "listed")
        for error in (refused(), refused("ignored", id="some/other")):
            assert (error.field, fault(error)) == ("model.hub", True)
            assert "ConnectError: [Errno 111] Connection refused; check the id, your network" in error.message


@pytest.fixture
def silent(at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that takes connections, and says nothing."""
    monkeypatch.setattr(hub, "SILENCE_S", SILENT_S)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        at(listening.getsockname()[1])
        yield


@pytest.mark.usefixtures("silent")
def test_a_silent_hub_is_given_up() -> None:
    hub.configure()
    error = refused()
    assert (error.field, fault(error)) == ("model.hub", True)
    assert "ReadTimeout: timed out; check the id, your network" in error.message


def test_a_server_asks_by_rules_of_its_own(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wiring.build(Settings(data_dir=tmp_path / "data"))
    resolve(source())
    assert all("hf_hub/" in agent and "torch/" not in agent for agent in served.agents)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # the library's rules hold, too
    with pytest.raises(OfflineModeIsEnabled):
        get_session().get(constants.ENDPOINT)
