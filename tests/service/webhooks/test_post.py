"""Attempts over real sockets on this machine, with names that a test resolves as it likes."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest
import trustme

from ranksieve.service.webhooks.outcomes import Outcome
from ranksieve.service.webhooks.post import HttpPost, Resolve

NAME = "hooks.test"
HEADERS = {"content-type": "application/json", "webhook-id": "m1"}
OK = b"HTTP/1.1 204 No Content\r\n\r\n"

Answer = Callable[[socket.socket], None]


class Server:
    """Listens on loopback, keeps what it reads, and answers each connection as it was told."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._answer = answer
        self._tls = tls
        self.received: list[bytes] = []
        self.names: list[str | None] = []
        """Those that clients asked for a certificate of."""
        if tls is not None:
            tls.sni_callback = lambda _socket, name, _context: self.names.append(name)
        self._thread = threading.Thread(target=self._serve)

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        with suppress(OSError):  # of `accept`, once it is shut down
            while True:
                connection = self._socket.accept()[0]
                with suppress(OSError), connection:
                    self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True)
        request = b""
        while not request.endswith(b"{}") and (chunk := connection.recv(65536)):
            request += chunk
        self.received.append(request)
        self._answer(connection)
        with suppress(ssl.SSLError):
            connection.recv(1)  # until the client is gone
        connection.close()


@contextmanager
def serving(answer: Answer | bytes, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    fixed = answer if callable(answer) else lambda connection: connection.sendall(answer)
    server = Server(fixed, tls)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def to(*addresses: str) -> Resolve:
    def resolve(name: str, port: int) -> Sequence[str]:
        assert name == NAME
        return addresses

    return resolve


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def certified(authority: trustme.CA) -> ssl.SSLContext:
    """What a server of that name shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(context)
    return context


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def http(answer: Answer | bytes, timeout_s: float = 5.0) -> tuple[Outcome, bytes]:
    """The outcome of an attempt over plain HTTP, and what the server read."""
    with serving(answer) as server:
        post = HttpPost([NAME], timeout_s, resolve=to("127.0.0.1"))
        outcome = post(f"http://{NAME}:{server.port}/hook?a=b", HEADERS, b"{}")
    return outcome, server.received[0]


def test_a_post_arrives_as_it_was_sent() -> None:
    outcome, received = http(OK)

    assert outcome == Outcome(status=204)
    lines = received.decode().split("\r\n")
    assert lines[0] == "POST /hook?a=b HTTP/1.1"
    headers = dict(line.lower().split(": ", 1) for line in lines[1:-2])
    assert headers["host"].startswith(f"{NAME}:")
    assert headers["webhook-id"] == "m1"
    assert headers["content-length"] == "2"
    assert lines[-1] == "{}"


def test_https_is_connected_to_the_address_that_was_looked_at_under_the_url_s_name(
    certified: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    with serving(OK, certified) as server:
        post = HttpPost([NAME], resolve=to("127.0.0.1"), tls=trusting)
        outcome = post(f"https://{NAME}:{server.port}/", HEADERS, b"{}")

    assert outcome == Outcome(status=204)
    assert server.names == [NAME]


def test_a_certificate_of_another_name_or_of_nobody_known_is_refused(
    certified: ssl.SSLContext, trusting: ssl.SSLContext
) -> None:
    other = "other.test"
    for name, tls in ((other, trusting), (NAME, ssl.create_default_context())):
        with serving(OK, certified) as server:
            post = HttpPost([name], resolve=lambda name, port: ["127.0.0.1"], tls=tls)
            outcome = post(f"https://{name}:{server.port}/", HEADERS, b"{}")
        assert outcome.error is not None
        assert "certificate verify failed" in outcome.error
        assert server.received == []


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1"])
def test_a_name_that_leads_inside_is_not_connected_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket, "create_connection", refuse)
    outcome = HttpPost(resolve=to(address))(f"https://{NAME}/", HEADERS, b"{}")

    assert outcome == Outcome(error=f"{NAME} resolves to no address that a webhook may lead to")


def test_a_name_is_looked_up_once_and_of_its_addresses_only_the_allowed_are_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []
    asked: list[str] = []

    def connect(address: tuple[str, int], *_: object, **__: object) -> None:
        tried.append(address[0])
        raise ConnectionRefusedError(111, "Connection refused")

    def resolve(name: str, port: int) -> Sequence[str]:
        asked.append(name)
        return ["10.0.0.1", "93.184.216.34", "127.0.0.1", "2606:4700::1111"]

    monkeypatch.setattr(socket, "create_connection", connect)
    outcome = HttpPost(resolve=resolve)(f"https://{NAME}/", HEADERS, b"{}")

    assert outcome.error == "cannot connect: [Errno 111] Connection refused"
    assert (asked, tried) == ([NAME], ["93.184.216.34", "2606:4700::1111"])


def test_a_name_that_is_not_known_may_be_known_later() -> None:
    def resolve(name: str, port: int) -> Sequence[str]:
        raise socket.gaierror(-2, "Name or service not known")

    outcome = HttpPost(resolve=resolve)(f"https://{NAME}/", HEADERS, b"{}")

    assert outcome == Outcome(error=f"cannot connect: {NAME} cannot be looked up")


def test_what_the_operator_trusts_no_more_is_not_sent_to() -> None:
    outcome = HttpPost()("http://127.0.0.1:1/", HEADERS, b"{}")

    assert outcome.error is not None
    assert outcome.error.startswith("url: must begin with https")


def test_a_redirect_is_not_followed() -> None:
    with serving(OK) as inside:
        there = f"HTTP/1.1 307 Temporary\r\nLocation: http://127.0.0.1:{inside.port}/\r\n\r\n".encode()
        outcome, _ = http(there)

    assert outcome == Outcome(status=307, error="answered 307; redirects are not followed")
    assert inside.received == []


def test_an_endless_answer_is_not_read() -> None:
    sent_bytes = 0

    def flood(connection: socket.socket) -> None:
        nonlocal sent_bytes
        connection.sendall(b"HTTP/1.1 500 Oh\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            sent_bytes += connection.send(b"x" * 65536)

    outcome, _ = http(flood)

    assert outcome == Outcome(status=500, error="answered 500")
    assert sent_bytes < 50_000_000


def test_a_trickle_of_headers_ends_at_the_deadline() -> None:
    def trickle(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.sendall(b"X: y\r\n")
            time.sleep(0.05)

    outcome, _ = http(trickle, timeout_s=0.4)

    assert outcome == Outcome(error="no answer within 0.4 s")


def test_silence_ends_at_the_deadline() -> None:
    outcome, _ = http(lambda connection: None, timeout_s=0.3)

    assert outcome == Outcome(error="no answer within 0.3 s")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", "the answer is not HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\ns3cret\r\n\r\n", "the answer is not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 200_000, "the answer is not HTTP"),
    ],
)
def test_what_is_no_answer_is_told_without_what_it_says(answer: bytes, error: str) -> None:
    def say(connection: socket.socket) -> None:
        connection.sendall(answer)
        connection.shutdown(socket.SHUT_WR)

    assert http(say)[0] == Outcome(error=error)


def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(OK) as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        outcome, _ = http(OK)

    assert outcome == Outcome(status=204)
    assert proxy.received == []


def test_an_address_that_never_answers_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    connect, given = socket.create_connection, {}

    def silent_first(address: tuple[str, int], timeout: float, **more: object) -> socket.socket:
        given[address[0]] = timeout
        if address[0] == "127.0.0.1":
            return connect(address, timeout, **more)  # type: ignore[arg-type]
        raise TimeoutError("timed out")

    monkeypatch.setattr(socket, "create_connection", silent_first)
    with serving(OK) as server:
        # plain HTTP goes to addresses of this machine only: another one would not be tried at all
        post = HttpPost([NAME], 4.0, resolve=lambda name, port: ["127.0.0.2", "127.0.0.1"])
        assert post(f"http://{NAME}:{server.port}/", HEADERS, b"{}") == Outcome(status=204)
    assert list(given) == ["127.0.0.2", "127.0.0.1"]
    assert given["127.0.0.2"] <= 2.0  # of the four seconds for both
    assert given["127.0.0.1"] > 2.0
