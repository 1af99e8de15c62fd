"""What is no HTTP, too slow or too much, sent to a real socket."""

import json
import select
import socket
import threading
from contextlib import ExitStack

import httpx2
import pytest

from ranksieve.api.http import protocol
from ranksieve.api.http.app import create_app
from ranksieve.api.http.server import Server, listen
from ranksieve.service.server.settings import Settings


@pytest.fixture
def serve():
    """Serves an application; returns the address."""
    with ExitStack() as stack:

        def serve(application, **options):
            sock = stack.enter_context(listen("127.0.0.1", 0))
            server = Server(create_app(application), access_log=False, **options)
            thread = threading.Thread(target=server.run, args=([sock],))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.end)
            server.ready.wait()
            return sock.getsockname()

        yield serve


@pytest.fixture
def address(serve, application):
    return serve(application)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nno header\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nA: b\x00\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_with_a_problem_document(address, sent):
    with socket.create_connection(address, timeout=30) as sock:
        sock.sendall(sent + b"\r\n")
        answer = b"".join(iter(lambda: sock.recv(65536), b""))

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/problem+json" in head.lower()
    assert b"connection: close" in head.lower()
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (400, "bad_request")
    assert f"x-request-id: {problem['request_id']}".encode() in head.lower()


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: 127",
        b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
        b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /healthz",
    ],
    ids=["nothing", "half a head", "half a body", "half of a second request"],
)
def test_a_connection_on_which_too_little_comes_is_cut_off(address, monkeypatch, sent):
    monkeypatch.setattr(protocol, "HEAD_S", 0.2)
    monkeypatch.setattr(protocol, "BODY_S", 0.2)

    with socket.create_connection(address, timeout=30) as sock:
        sock.sendall(sent)

        assert is_cut_off(sock, within_s=30)


def test_a_dripping_body_does_not_extend_its_time(address, monkeypatch):
    monkeypatch.setattr(protocol, "BODY_S", 0.5)
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9999\r\n\r\n"

    with socket.create_connection(address) as sock:
        sock.sendall(head)
        assert any(is_cut_off(sock, within_s=0.05) or sock.send(b" ") == 0 for _ in range(600))


def test_a_reader_that_takes_nothing_for_long_is_cut_off(serve, application, monkeypatch):
    class Watched(protocol.Protocol):
        def connection_lost(self, exc):
            super().connection_lost(exc)
            lost.set()

    lost = threading.Event()
    monkeypatch.setattr(protocol, "STALL_S", 0.2)
    monkeypatch.setattr(protocol, "Protocol", Watched)
    address = serve(application)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(address)
        sock.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 200)

        assert lost.wait(30)


def is_cut_off(sock, *, within_s):
    """Whether the other side ends a connection, of which nothing is read."""
    poll = select.poll()
    poll.register(sock, select.POLLRDHUP)
    return bool(poll.poll(1000 * within_s))


@pytest.mark.parametrize(
    ("connections", "proxies", "most", "status", "code"),
    [
        (8, [], 2, 429, "too_many_requests"),
        (8, ["127.0.0.0/8"], 8, 503, "unavailable"),
        (1, [], 1, 503, "unavailable"),
    ],
)
def test_connections_beyond_the_most_are_refused(
    build, tmp_path, serve, connections, proxies, most, status, code
):
    settings = Settings(data_dir=tmp_path / "data", connections=connections)
    address = serve(build(settings), trusted_proxies=proxies)
    url = f"http://127.0.0.1:{address[1]}/healthz"
    with ExitStack() as stack:
        clients = [stack.enter_context(httpx2.Client(trust_env=False)) for _ in range(most)]
        assert [client.get(url).status_code for client in clients] == [200] * most
        refused = stack.enter_context(socket.create_connection(address, timeout=30))
        head, _, body = b"".join(iter(lambda: refused.recv(65536), b"")).partition(b"\r\n\r\n")
        assert head.startswith(f"HTTP/1.1 {status} ".encode())
        assert {b"retry-after: 5", b"connection: close"} <= {*head.lower().split(b"\r\n")}
        assert json.loads(body)["code"] == code
        assert "too many connections" in json.loads(body)["detail"]
