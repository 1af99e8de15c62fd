"""The API key, and the addresses that need one."""

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from api.app import create_app
from api.auth import is_loopback, refuse_open_network
from search.errors import InputError
from service.settings import Settings


@pytest.fixture
def locked(build, tmp_path):
    settings = Settings(data_dir=tmp_path / "locked", api_key="s3cret")
    with TestClient(create_app(build(settings)), base_url="http://127.0.0.1") as http:
        yield http


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}])
def test_every_v1_route_wants_the_key(locked, header):
    requests = [
        ("GET", "/v1/jobs"),
        ("POST", "/v1/jobs"),
        ("GET", "/v1/jobs/1"),
        ("POST", "/v1/jobs/1/cancel"),
        ("GET", "/v1/jobs/1/events"),
        ("GET", "/v1/jobs/1/generations"),
        ("GET", "/v1/jobs/1/candidates"),
        ("GET", "/v1/jobs/1/artifacts"),
        ("GET", "/v1/jobs/1/artifacts/config.json"),
    ]
    for method, path in requests:
        response = locked.request(method, path, headers=header)
        assert response.status_code == 401, path
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.headers["content-type"] == "application/problem+json"


def test_the_key_opens_and_health_needs_none(locked):
    assert locked.get("/v1/jobs", headers={"Authorization": "Bearer s3cret"}).status_code == 200
    assert locked.get("/healthz").status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_loopback(host):
    assert is_loopback(host)
    refuse_open_network(host, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "ranksieve.example", ""])
def test_a_network_needs_a_key(host):
    assert not is_loopback(host)
    with pytest.raises(InputError, match="RANKSIEVE_API_KEY"):
        refuse_open_network(host, None)
    with pytest.raises(InputError):
        refuse_open_network(host, SecretStr(""))
    refuse_open_network(host, SecretStr("s3cret"))
