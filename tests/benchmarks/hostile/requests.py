"""Hostile bodies and connections, and requests for what belongs to others."""

import gzip
import json

from hostile.inputs import Draw, Expected, Input, Make

LONG_BYTES = 5 * 2**20
"""More than any body may have."""

SLOW_S = 0.5
"""Pause between the bytes of a slow sender."""

ROUTES = (
    "GET /v1/jobs/{}", "GET /v1/jobs/{}/events", "GET /v1/jobs/{}/generations", "GET /v1/jobs/{}/candidates",
    "GET /v1/jobs/{}/artifacts", "GET /v1/jobs/{}/artifacts/model/config.json", "GET /v1/jobs/{}/exports",
    "GET /v1/jobs/{}/ranks", "DELETE /v1/jobs/{}", "POST /v1/jobs/{}/cancel", "POST /v1/jobs/{}/stop",
    "POST /v1/jobs/{}/pause", "POST /v1/jobs/{}/resume", "GET /v1/keys", "GET /metrics", "GET /v1/jobs/{}/../{}",
    "GET /v1/jobs/../../v1/keys", "GET /v1/jobs/%2e%2e%2f{}", "GET //v1/jobs/{}", "GET /v1/jobs/{}%00",
    "GET /v1/jobs?after=%00", "GET /v1/jobs?limit=99999999999999999999", "GET /v1/jobs?owner=honest",
    "GET /v1/jobs/{}/artifacts/../../../../ranksieve.db", "GET /v1/jobs/{}/artifacts/%2e%2e/%2e%2e/ranksieve.db",
)  # fmt: skip
HOOKS = (
    "http://127.0.0.1:1/", "https://127.0.0.1/", "https://[::1]/", "http://169.254.169.254/latest", "file:///etc/passwd",
    "https://user:secret@example.com/", "gopher://127.0.0.1/", "https://localhost/", "https://0x7f000001/", "//x", "",
)  # fmt: skip


def _foreign(draw: Draw) -> Input:
    method, path = draw.rng.choice(ROUTES).replace("{}", draw.target.honest_job).split()
    return draw.send(draw.request(method, path))


def _foreign_change(draw: Draw) -> Input:
    job = draw.target.honest_job
    method, path, body = draw.rng.choice(
        [
            ("PATCH", f"/v1/jobs/{job}", {"name": "mine"}),
            ("PATCH", f"/v1/jobs/{job}", {"priority": 100}),
            ("POST", f"/v1/jobs/{job}/exports", {"candidate": 1}),
            ("POST", "/v1/keys", {"owner": "honest", "scope": "admin"}),
            ("POST", "/v1/keys", {"owner": "admin"}),
            ("POST", "/v1/webhooks", {"url": draw.rng.choice(HOOKS)}),
            ("POST", "/v1/webhooks/x/rotate", {}),
        ]
    )
    return draw.send(draw.request(method, path, json.dumps(body).encode()))


OTHERS: tuple[Make, ...] = (_foreign, _foreign_change)


def _broken_json(draw: Draw) -> Input:
    right = draw.written({})
    cut, flipped = draw.rng.randrange(1, len(right)), bytearray(right)
    flipped[draw.rng.randrange(len(right))] = draw.rng.randrange(128, 256)
    bodies = [
        right[:cut], bytes(flipped), b"", b"null", b"[]", b"7", b'"job"', b"{}{}", b"\xef\xbb\xbf{", b"{" * 10**5,
        b"[" * 10**6, b'{"seed": ' + b"9" * 10**6 + b"}", b'{"name": "\\ud800"}', right.replace(b"{", b"{,", 1),
        b'{"a": 1e999999999}', right[:-1] + b"\0}", b"a=b&c=d", b"--x\r\n\r\n\r\n--x--",
    ]  # fmt: skip
    return draw.post(draw.rng.choice(bodies))


def _without_key(draw: Draw) -> Input:
    schemes = [
        None,
        "",
        "Bearer",
        "Bearer x",
        f"Basic {draw.key}",
        f"Bearer {draw.key}x",
        f"Bearer {draw.key[:-1]}",
    ]
    schemes += ["Bearer " + "x" * 9000, "Bearer \xff\xfe", f"{draw.key}", f"Bearer {draw.key},{draw.key}x"]
    body = draw.rng.choice([draw.written({}), b"{" * 10**6])
    return draw.post(body, {"Authorization": draw.rng.choice(schemes)})


def _long(draw: Draw) -> Input:
    bodies = [
        b" " * LONG_BYTES, b'{"name": "' + b"x" * LONG_BYTES + b'"}', b"[" + b"1," * 10**6 + b"1]",
        b"{" + b",".join(b'"%d": 1' % n for n in range(10**5)) + b"}", b'{"labels": [' + b"{}," * 10**5 + b"{}]}",
        gzip.compress(b" " * 10**7),
    ]  # fmt: skip
    return draw.post(draw.rng.choice(bodies), draw.rng.choice([{}, {"Content-Encoding": "gzip"}]))


def _lengths(draw: Draw) -> Input:
    body = draw.written({})
    lengths = ["-1", "1e3", "9" * 30, "0x10", "1, 2", " ", "+5"]
    headers = draw.rng.choice(
        [
            {"Content-Length": draw.rng.choice(lengths)},
            {"Transfer-Encoding": "chunked"},
            {"Content-Length": None, "Transfer-Encoding": "gzip, chunked"},
            {"Transfer-Encoding": "chunked, identity"},
        ]
    )
    return draw.post(body, headers, expected=Expected.CUT_OFF)


def _chunks(draw: Draw) -> Input:
    head = draw.request(
        "POST", "/v1/jobs", None, {"Transfer-Encoding": "chunked", "Content-Type": "application/json"}
    )
    chunks = draw.rng.choice(
        [
            b"FFFFFFFFFFFFFFFF\r\nx",
            b"-1\r\n",
            b"zz\r\n",
            b"1;" + b"x" * 10**5 + b"\r\n",
            b"10000\r\n" + b" " * 65536 + b"\r\n",
        ]
    )
    return draw.send(head, *[chunks] * 100, expected=Expected.CUT_OFF)


def _types(draw: Draw) -> Input:
    kinds = [
        None,
        "",
        "text/plain",
        "application/xml",
        "multipart/form-data; boundary=x",
        "application/x-yaml",
        "\xff",
    ]
    return draw.post(draw.written({}), {"Content-Type": draw.rng.choice(kinds)})


def _yaml(draw: Draw) -> Input:
    most = 64 * 1024
    bodies = [
        b"- a: 1\n" * (most // 7), b"[" * 1000, b"? " * 1000, b"a: &a [x]\nb: " + b"*a, " * 1000, b"a: &a\n  b: *a",
        b"<<: {a: 1}", b"!!python/object/apply:os.system [id]", b"!!binary " + b"A" * most, b"at: 2001-99-99",
        b"seed: " + b"9" * (most - 6), b"a: 1\na: 2", b"x" * (most + 1), b"\xff\xfe", b"--- 1\n--- 2",
        b"%YAML 9.9\n---\na: 1", b"name: \"" + b"\\u00e9" * (most // 8), b"task: |\n" + b"  x\n" * 9000,
        b"".join(b"k%d: {a: [1, 2]}\n" % n for n in range(3000)), draw.written({}) + b"}",
    ]  # fmt: skip
    return draw.post(draw.rng.choice(bodies), {"Content-Type": "application/yaml"})


def _slow_body(draw: Draw) -> Input:
    whole = draw.request("POST", "/v1/jobs", draw.written({}))
    head, _, body = whole.partition(b"\r\n\r\n")
    return draw.send(
        head + b"\r\n\r\n", *(body[n : n + 1] for n in range(300)), pause_s=SLOW_S, expected=Expected.CUT_OFF
    )


BODIES: tuple[Make, ...] = (
    _broken_json, _without_key, _long, _lengths, _chunks, _types, _yaml, _broken_json, _without_key, _yaml, _slow_body,
)  # fmt: skip


def _heads(draw: Draw) -> Input:
    host = f"Host: {draw.target.host}\r\n".encode()
    heads = [
        b"\0" * 1000,
        b"\r\n" * 50_000,
        draw.rng.randbytes(2000) + b"\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /v1/jobs\r\n\r\n",
        b"GET /v1/jobs HTTP/9.9\r\n" + host + b"\r\n",
        b"G\xcb\x9cT /v1/jobs HTTP/1.1\r\n" + host + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /" + b"x" * 10**6 + b" HTTP/1.1\r\n" + host + b"\r\n",
        b"GET /v1/jobs HTTP/1.1\r\n" + host + b"X: " + b"x" * 10**6 + b"\r\n\r\n",
        b"GET /v1/jobs HTTP/1.1\r\n" + host + b"".join(b"X-%d: x\r\n" % n for n in range(10**5)) + b"\r\n",
        b"GET /v1/jobs HTTP/1.1\r\n" + host + b" folded: x\r\nx y: z\r\n\r\n",
        b"GET http://169.254.169.254/ HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
        b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n",
    ]
    return draw.send(draw.rng.choice(heads), expected=Expected.CUT_OFF)


def _half_head(draw: Draw) -> Input:
    head = draw.request("GET", "/v1/jobs")
    return draw.send(head[: draw.rng.randrange(1, len(head) - 4)], expected=Expected.CUT_OFF)


def _slow_head(draw: Draw) -> Input:
    head = draw.request("GET", "/v1/jobs", headers={"X": "x" * 200})
    return draw.send(*(head[n : n + 1] for n in range(100)), pause_s=SLOW_S, expected=Expected.CUT_OFF)


def _idle(draw: Draw) -> Input:
    return draw.send(expected=Expected.CUT_OFF, connections=draw.rng.choice([1, 5, 20]))


def _crowd(draw: Draw) -> Input:
    """More connections than one address may have."""
    return draw.send(expected=Expected.CUT_OFF, connections=300)


def _other_protocols(draw: Draw) -> Input:
    upgrades = [("websocket", "Upgrade"), ("h2c", "Upgrade, HTTP2-Settings")]
    upgrade, connection = draw.rng.choice(upgrades)
    path = draw.rng.choice(["/v1/evil", f"/v1/jobs/{draw.target.honest_job}/events"])
    headers = {
        "Upgrade": upgrade,
        "Connection": connection,
        "Sec-WebSocket-Key": "x",
        "Sec-WebSocket-Version": "13",
    }
    return draw.send(draw.request("GET", path, headers=headers))


def _foreign_stream(draw: Draw) -> Input:
    path = f"/v1/jobs/{draw.target.honest_job}/events"
    request = draw.request("GET", path, headers={"Accept": "text/event-stream", "Last-Event-ID": "0"})
    return draw.send(request, connections=draw.rng.choice([1, 20]))


def _pipeline(draw: Draw) -> Input:
    """Many requests at once, answered one after another; only the first answer is read."""
    many = draw.request("GET", "/v1/nothing", headers={"Connection": "keep-alive"}) * draw.rng.choice(
        [10, 200]
    )
    return draw.send(many)


CONNECTIONS: tuple[Make, ...] = (
    _heads, _half_head, _slow_head, _idle, _other_protocols, _foreign_stream, _pipeline, _heads, _heads, _crowd,
)  # fmt: skip
