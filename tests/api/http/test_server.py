"""Serving in the foreground until a signal comes."""

import json
import logging
import os
import signal
import socket
import threading

import httpx2
import pytest

from ranksieve.api.client.client import Client
from ranksieve.api.http.server import listen, serve, url_of
from ranksieve.search.errors import InfrastructureError, InputError
from ranksieve.service.server import logs
from ranksieve.service.server.keys import Scope
from ranksieve.service.server.settings import Settings


def test_serve_answers_until_a_signal_and_ends_open_streams(build, tmp_path, pipeline, spec):
    pipeline.go.clear()
    seen: list[str] = []

    def use(url: str) -> None:
        with Client(url, wait=lambda seconds: None) as client:
            job_id = client.submit(spec)["id"]
            try:
                for event in client.events(job_id):
                    seen.append(event["type"])
                    if seen[-1] == "generation.completed":
                        os.kill(os.getpid(), signal.SIGINT)  # while this stream is open
            except InfrastructureError:
                seen.append("server gone")

    threads: list[threading.Thread] = []

    def announce(url: str) -> None:
        threads.append(threading.Thread(target=use, args=(url,)))
        threads[0].start()

    serve(Settings(data_dir=tmp_path, port=0), build, announce)

    threads[0].join()
    assert seen[-1] == "server gone"
    assert "generation.completed" in seen


def test_a_root_in_the_data_directory_is_refused(tmp_path, build):
    with pytest.raises(InputError, match=r"^roots: .* is in the data directory"):
        serve(Settings(data_dir=tmp_path, roots=[tmp_path / "jobs"], port=0), build, lambda url: None)


def test_a_network_without_a_key_is_refused_before_anything_runs(tmp_path, build):
    built = []

    def remember(settings):
        built.append(build(settings))
        return built[-1]

    with pytest.raises(InputError, match="RANKSIEVE_API_KEY"):
        serve(Settings(data_dir=tmp_path, host="0.0.0.0", port=0), remember, lambda url: None)
    assert not built[0].controller.alive


def test_a_network_is_served_once_there_is_an_api_key(tmp_path, build):
    settings = Settings(data_dir=tmp_path, host="0.0.0.0", port=0)
    _, secret = build(settings).store.keys.create("alice", Scope.READ)
    answers: list[object] = []

    def use(url: str) -> None:
        with Client(url.replace("0.0.0.0", "127.0.0.1"), secret) as client:
            answers.append(client.jobs())
        os.kill(os.getpid(), signal.SIGINT)

    serve(settings, build, lambda url: threading.Thread(target=use, args=(url,)).start())

    assert answers == [[]]


def test_a_server_that_can_run_no_job_any_more_ends(tmp_path, build):
    made = []

    def failing(settings):
        made.append(build(settings))
        return made[-1]

    def use(url: str) -> None:
        made[0].controller._tidy = lambda: 1 / 0
        made[0].controller.wake()

    with pytest.raises(InfrastructureError, match="no job can run any more"):
        serve(
            Settings(data_dir=tmp_path, port=0),
            failing,
            lambda url: threading.Thread(target=use, args=(url,)).start(),
        )
    assert not made[0].controller.alive


@pytest.mark.parametrize(("proxies", "statuses"), [([], {401, 429}), (["127.0.0.1"], {401})])
def test_where_a_request_comes_from_is_a_trusted_proxys_to_tell(tmp_path, build, proxies, statuses):
    settings = Settings(
        data_dir=tmp_path, port=0, api_key="s3cret", requests_per_second=2, trusted_proxies=proxies
    )
    answers: list[int] = []

    def use(url: str) -> None:
        for number in range(20):
            headers = {"X-Forwarded-For": f"192.0.2.{number}"}
            answers.append(httpx2.get(f"{url}/v1/jobs", headers=headers, trust_env=False).status_code)
        os.kill(os.getpid(), signal.SIGINT)

    serve(settings, build, lambda url: threading.Thread(target=use, args=(url,)).start())

    assert set(answers) == statuses


def test_a_taken_port_is_said(tmp_path, build):
    with listen("127.0.0.1", 0) as sock:
        port = sock.getsockname()[1]
        assert url_of(sock) == f"http://127.0.0.1:{port}"
        with pytest.raises(InfrastructureError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve(Settings(data_dir=tmp_path, port=port), build, lambda url: None)


def test_the_access_log_names_the_request(tmp_path, build):
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Keep()
    handler.setFormatter(logs.formatter("json"))
    access = logging.getLogger("uvicorn.access")
    access.addHandler(handler)
    access.setLevel(logging.INFO)

    def use(url: str) -> None:
        try:
            httpx2.get(f"{url}/healthz", headers={"X-Request-ID": "mine-7"})
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    try:
        serve(
            Settings(data_dir=tmp_path, port=0),
            build,
            lambda url: threading.Thread(target=use, args=(url,)).start(),
        )
    finally:
        access.removeHandler(handler)

    [line] = [json.loads(line) for line in lines]
    assert line["request_id"] == "mine-7"
    assert '"GET /healthz HTTP/1.1" 200' in line["message"]


def test_answers_are_sent_at_once():
    with listen("127.0.0.1", 0) as sock, socket.create_connection(sock.getsockname()[:2]):
        connection, _ = sock.accept()
        with connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
