"""A hub of the tests' own, over HTTP, as far as the real library asks for it."""

import json
import socket
import struct
import sys
import threading
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import close_session, constants
from huggingface_hub.utils import _http


class Hub(ThreadingHTTPServer):
    """Serves models, as far as the library asks for it.

    `commits`: model → branch, tag or commit → the commit. `files`: commit → path → content. `gated`: who does not show
    `TOKEN` is told that there are files, but not given any. `failing`: the status of every answer. `cut`: a file whose
    connection breaks off in its midst. `held`: one that is given by half, until `go` is set. `seen`: method and path
    of every request. `public`: the models that everyone sees. `large`: digest → an uploaded file that no commit has.
    """

    ID, TOKEN = "some/model", "hf_of_an_account_that_was_let_in"
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.commits: dict[str, dict[str, str]] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.public: set[str] = set()
        self.large: dict[str, bytes] = {}
        self.gated, self.failing, self.cut, self.held = False, 0, "", ""
        self.half, self.go = threading.Event(), threading.Event()
        self.seen: list[tuple[str, str]] = []
        self.agents: set[str] = set()

    def push(self, files: Mapping[str, bytes], *names: str, id: str = ID) -> str:
        """Adds a commit to a model, which has these names by now; returns it."""
        commit = sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.files[commit] = dict(files)
        self.commits.setdefault(id, {}).update(dict.fromkeys([*names, commit], commit))
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
            case ["api", "models", owner, name] if (id := f"{owner}/{name}") in self.server.commits:
                self._answer_json({"id": id, "private": id not in self.server.public, "siblings": []})
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

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        self.server.seen.append((self.command, unquote(path)))
        sent = self._sent()
        if self.server.failing:
            return self._answer(self.server.failing)
        if self.command == "POST" and self.headers["Authorization"] != f"Bearer {self.server.TOKEN}":
            return self._answer(403)
        match path.strip("/").split("/"):
            case ["api", "validate-yaml"]:
                self._answer_json({"warnings": []})
            case ["api", "repos", "create"]:
                self._create(json.loads(sent))
            case ["api", "models", _, _, "preupload", "main"]:
                files = [
                    {"path": file["path"], "uploadMode": _mode(file["path"]), "shouldIgnore": False}
                    for file in json.loads(sent)["files"]
                ]
                self._answer_json({"files": files})
            case [_, _, "info", "lfs", "objects", "batch"]:
                self._answer_json({"objects": [self._upload(**one) for one in json.loads(sent)["objects"]]})
            case ["large", digest]:
                self.server.large[digest] = sent
                self._answer(200)
            case ["api", "models", owner, name, "commit", "main"]:
                self._take(f"{owner}/{name}", [json.loads(line) for line in sent.splitlines()])
            case _:
                self._answer(404)

    do_PUT = do_POST

    def _sent(self) -> bytes:
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _create(self, asked: dict[str, Any]) -> None:
        id = f"{asked['organization']}/{asked['name']}"
        known = id in self.server.commits
        if not known:
            self.server.push({".gitattributes": b"*.safetensors filter=lfs"}, "main", id=id)
            if asked["visibility"] == "public":
                self.server.public.add(id)
        self._answer_json({"url": f"http://{self.headers['Host']}/{id}"}, 409 if known else 200)

    def _upload(self, oid: str, size: int) -> dict[str, Any]:
        href = f"http://{self.headers['Host']}/large/{oid}"
        return {"oid": oid, "size": size, "actions": {"upload": {"href": href}}}

    def _take(self, id: str, lines: list[dict[str, Any]]) -> None:
        files = dict(self.server.files[self.server.commits[id]["main"]])
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "file":
                    files[value["path"]] = b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.server.large.pop(value["oid"])
                case "deletedFile":
                    del files[value["path"]]
        commit = self.server.push(files, "main", id=id)
        self._answer_json(
            {"commitUrl": f"http://{self.headers['Host']}/{id}/commit/{commit}", "commitOid": commit}
        )

    def _answer_json(self, answer: Any, status: int = 200) -> None:
        self._answer(status, json.dumps(answer).encode(), content_type="application/json")

    def _tell(self, id: str, revision: str, what: str) -> None:
        if (commit := self._commit(id, revision)) is None:
            return
        paths = self.server.files[commit]
        entries = [
            {"type": "file", "path": path, "size": len(content), "oid": sha1(content).hexdigest()}
            for path, content in paths.items()
        ]
        self._answer_json({"id": id, "sha": commit, "siblings": []} if what == "revision" else entries)

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
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *values: object) -> None:
        """`seen` tells."""


def _mode(path: str) -> str:
    return "lfs" if path.endswith(".safetensors") else "regular"


@contextmanager
def serving() -> Iterator[Hub]:
    """A running hub without models."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield hub
        finally:
            hub.go.set()
            hub.shutdown()
            thread.join()


@contextmanager
def looking_elsewhere(patch: pytest.MonkeyPatch, folder: Path) -> Iterator[Callable[[int], None]]:
    """Lets the library look for its hub at a port of this machine, with an empty cache and no token."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        patch.delenv(name, raising=False)
    for name, path in (("HF_TOKEN_PATH", folder / "token"), ("HF_HUB_CACHE", folder / "hub")):
        patch.setattr(constants, name, str(path))
        patch.setenv(name, str(path))  # for processes to come
    patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", constants.HF_HUB_DISABLE_TELEMETRY)
    patch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    patch.setattr(_http, "_GLOBAL_CLIENT_FACTORY", _http._GLOBAL_CLIENT_FACTORY)

    def look(port: int) -> None:
        endpoint = f"http://127.0.0.1:{port}"
        patch.setattr(constants, "ENDPOINT", endpoint)
        patch.setenv("HF_ENDPOINT", endpoint)  # which the library reads when it is imported
        template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        close_session()

    try:
        yield look
    finally:
        close_session()
