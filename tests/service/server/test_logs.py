import json
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import pytest

from ranksieve.service.server.keys import new_token
from ranksieve.service.server.logs import LogFormat, about, formatter


def record(message: str, *arguments: object, failed: bool = False) -> logging.LogRecord:
    try:
        raise ValueError("no s3cret here") if failed else LookupError
    except (ValueError, LookupError):
        trace = sys.exc_info() if failed else None
    return logging.LogRecord(
        "ranksieve.service.run.controller", logging.INFO, "f.py", 1, message, arguments, trace
    )


def as_json(log: logging.LogRecord) -> dict[str, str]:
    values = json.loads(formatter("json", ["s3cret"]).format(log))
    assert isinstance(values, dict)
    return values


def test_json_names_the_job_and_the_request() -> None:
    with about(job="j1"), about(request="r1"):
        values = as_json(record("job %s: started", "j1"))

    time = values.pop("time")
    assert time.startswith("20")
    assert values == {
        "level": "INFO",
        "logger": "ranksieve.service.run.controller",
        "message": "job j1: started",
        "job_id": "j1",
        "request_id": "r1",
    }
    assert "job_id" not in as_json(record("idle"))


def test_a_line_ends_with_the_request_that_it_is_about() -> None:
    lines = formatter("text", ["s3cret"])
    with about(request="r1"):
        plain, named = (
            lines.format(record(message, "r1")) for message in ("got %.0s422", "request %s failed")
        )
        failed = lines.format(record("broke %.0s", "x", failed=True))

    assert plain.endswith("got 422 [request r1]")
    assert named.endswith("request r1 failed")
    assert "broke  [request r1]\nTraceback" in failed
    assert lines.format(record("idle")).endswith(": idle")


def test_the_thread_pool_logs_about_the_same() -> None:
    with about(request="r1"), ThreadPoolExecutor() as pool:
        values = pool.submit(copy_context().run, as_json, record("read")).result()

    assert values["request_id"] == "r1"


def test_a_block_inside_ends_with_itself() -> None:
    with about(job="j1", request="r1"):
        with about(job="j2"):
            assert as_json(record("x"))["job_id"] == "j2"
        assert as_json(record("x"))["job_id"] == "j1"


@pytest.mark.parametrize("format", ["text", "json"])
def test_no_secret_gets_out_even_by_a_traceback(format: LogFormat) -> None:
    token = new_token()
    line = formatter(format, ["s3cret"]).format(record("got %s and %s", token, "s3cret", failed=True))

    assert "ValueError: no [redacted] here" in line
    assert token not in line
    assert "s3cret" not in line


def test_a_secret_that_json_spells_otherwise_is_found() -> None:
    line = formatter("json", ['a"\\b']).format(record("got %s", 'a"\\b'))

    assert json.loads(line)["message"] == "got [redacted]"


def test_a_process_logs_json_to_stderr_whoever_logs() -> None:
    program = (
        "import logging; from ranksieve.service.server import logs; logs.configure('json', ['s3cret']);"
        "logging.getLogger('uvicorn.access').info('%s - %s', '127.0.0.1', 's3cret')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    [line] = done.stderr.splitlines()
    assert json.loads(line)["message"] == "127.0.0.1 - [redacted]"
    assert json.loads(line)["logger"] == "uvicorn.access"
