"""A client that opens a stream and does not read it: it holds up neither the job, nor other readers, nor the stop."""

import re
import socket
from time import monotonic

import pytest

from ranksieve.api.cli.embedded import embedded
from ranksieve.api.http import server
from ranksieve.service.job.events import EventType

BIG = {"phase": "x" * 50_000, "done": 1, "total": 2}
MANY = 200  # 10 MB: more than all buffers between server and client take


@pytest.fixture
def stall():
    """Opens a stream of events and does not read it; returns the socket."""
    opened = []

    def stall(url, job_id):
        host, port = url.removeprefix("http://").split(":")
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect((host, int(port)))
        opened.append(sock)
        head = f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n"
        sock.sendall(f"{head}Connection: close\r\n\r\n".encode())
        return sock

    yield stall
    for sock in opened:
        sock.close()


def test_a_reader_that_stalls_holds_nobody_up_and_misses_nothing(
    build, settings, pipeline, spec, stall, monkeypatch
):
    monkeypatch.setattr(server, "GRACE_S", 1)
    pipeline.go.clear()
    application = build(settings)
    with embedded(application) as client:
        job_id = client.submit(spec)["id"]
        assert pipeline.searching.wait(30)
        url = client.connection.url
        slow, *_others = [stall(url, job_id) for _ in range(4)]
        epoch = application.store.job(job_id).epoch
        for _ in range(MANY):
            application.store.runs.append_event(job_id, EventType.PHASE_PROGRESS, BIG, epoch=epoch)
        pipeline.go.set()

        seen = [event["seq"] for event in client.events(job_id)]
        assert seen == list(range(1, len(seen) + 1))
        assert len(seen) > MANY
        assert client.job(job_id)["state"] == "succeeded"

        text = b"".join(iter(lambda: slow.recv(1 << 20), b"")).decode()
        assert [int(seq) for seq in re.findall(r"^id: (\d+)\r?$", text, re.MULTILINE)] == seen
        stopping_s = monotonic()
    assert monotonic() - stopping_s < 30  # three of them are still not reading
