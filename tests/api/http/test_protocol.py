"""What is no HTTP, sent to a real socket."""

import json
import socket
import threading

import pytest

from ranksieve.api.http.app import create_app
from ranksieve.api.http.server import Server, listen


@pytest.fixture
def address(application):
    with listen("127.0.0.1", 0) as sock:
        server = Server(create_app(application), access_log=False)
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        server.ready.wait()
        yield sock.getsockname()
        server.should_exit = True
        thread.join()


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
