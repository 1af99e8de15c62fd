"""Pages of other origins and rebound names are kept out; everybody else gets in."""

import pytest

from ranksieve.api.http.hosts import trusted_names


@pytest.fixture(scope="module")
def proxied(share):
    """A server on loopback behind a proxy that is called sieve.example."""
    return share(allowed_hosts="sieve.example, *.sieve.example")


@pytest.mark.parametrize(
    ("host", "allowed", "names"),
    [
        ("127.0.0.1", [], ["localhost", "127.0.0.1", "[::1]", "127.0.0.1"]),
        ("::1", ["sieve.example"], ["localhost", "127.0.0.1", "[::1]", "[::1]", "sieve.example"]),
        ("0.0.0.0", [], ["*"]),
        ("0.0.0.0", ["sieve.example"], ["localhost", "127.0.0.1", "[::1]", "sieve.example"]),
    ],
)
def test_names_that_are_answered_to(host, allowed, names):
    assert trusted_names(host, allowed) == names


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("sieve.example", 200),
        ("SIEVE.example:443", 200),
        ("a.sieve.example", 200),
        ("localhost:1", 200),
        ("[::1]:1", 200),
        ("evil.example", 400),
        ("sieve.example.evil.example", 400),
        ("evilsieve.example", 400),
    ],
)
def test_configured_names_are_answered_to(proxied, host, status):
    assert proxied.get("/healthz", headers={"Host": host}).status_code == status


def test_a_network_with_configured_names_answers_to_no_other(share):
    http = share(host="0.0.0.0", api_key="secret", allowed_hosts=["sieve.example"])

    assert http.get("/healthz", headers={"Host": "sieve.example"}).status_code == 200
    assert http.get("/healthz", headers={"Host": "evil.example"}).status_code == 400


@pytest.mark.parametrize(
    ("origin", "own"),
    [
        ("http://127.0.0.1", True),
        ("https://sieve.example", True),
        ("https://a.sieve.example:8443", True),
        ("http://127.0.0.1:3000", False),
        ("http://localhost", False),
        ("https://evil.example", False),
        ("https://sieve.example.evil.example", False),
        ("null", False),
        ("", False),
        ("http://[", False),
    ],
)
def test_only_own_pages_change_anything(proxied, spec, origin, own):
    headers = {"Origin": origin}

    response = proxied.post("/v1/estimates", json=spec, headers=headers)

    assert response.status_code == (200 if own else 403)
    if not own:
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["code"] == "forbidden"
    assert proxied.get("/v1/jobs", headers=headers).status_code == 200
    assert "access-control-allow-origin" not in response.headers


def test_two_origins_are_both_looked_at(shared, spec):
    headers = [("Origin", "http://127.0.0.1"), ("Origin", "https://evil.example")]

    assert shared.post("/v1/estimates", json=spec, headers=headers).status_code == 403
