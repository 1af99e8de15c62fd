import json
import math
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from ranksieve.service.server.settings import Settings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("RANKSIEVE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_defaults_serve_this_machine_from_the_current_folder(tmp_path: Path) -> None:
    settings = Settings()

    assert settings.data_dir == tmp_path / ".ranksieve"
    assert settings.jobs_dir == tmp_path / ".ranksieve" / "jobs"
    assert settings.store_url == f"sqlite:///{tmp_path}/.ranksieve/ranksieve.db"
    assert (settings.host, settings.port) == ("127.0.0.1", 8765)
    assert settings.roots == []
    assert (settings.api_key, settings.database_url, settings.ray_address) == (None, None, None)
    assert settings.cache_dir == tmp_path / ".ranksieve" / "cache"
    assert settings.cache_limit_bytes == 100 * 2**30


@pytest.mark.parametrize("name", ["DATA_DIR", "RAY_ADDRESS", "DATABASE_URL"])
def test_a_variable_that_is_set_to_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As a substitution in a file of another tool leaves it: nobody means the current folder, or no cluster."""
    monkeypatch.setenv(f"RANKSIEVE_{name}", "")
    with pytest.raises(ValidationError, match="must not be empty; leave it out for the default"):
        Settings()


def test_a_key_out_of_a_file_ends_where_its_line_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKSIEVE_API_KEY", "s3cret\n")
    assert Settings().secrets == ["s3cret"]


def test_the_environment_is_read_when_settings_are_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RANKSIEVE_DATA_DIR", "elsewhere")
    monkeypatch.setenv("RANKSIEVE_PORT", "80")
    monkeypatch.setenv("RANKSIEVE_API_KEY", "s3cret")
    monkeypatch.setenv("RANKSIEVE_DATABASE_URL", "postgresql://me:s3cret@db/jobs")

    settings = Settings()

    assert settings.data_dir == tmp_path / "elsewhere"
    assert settings.port == 80
    assert settings.api_key is not None
    assert settings.api_key.get_secret_value() == "s3cret"
    assert settings.store_url == "postgresql://me:s3cret@db/jobs"
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize("joined", [os.pathsep.join(["/data", "models"]), json.dumps(["/data", "models"])])
def test_roots_are_a_path_list_or_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, joined: str) -> None:
    monkeypatch.setenv("RANKSIEVE_ROOTS", joined)

    assert Settings().roots == [Path("/data"), tmp_path / "models"]


def test_roots_may_be_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKSIEVE_ROOTS", "")

    assert Settings().roots == []


def test_arguments_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKSIEVE_PORT", "80")

    assert Settings(port=81).port == 81


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RANKSIEVE_PORT", "70000"),
        ("RANKSIEVE_API_KEY", ""),
        ("RANKSIEVE_ROOTS", '["/data"'),
        ("RANKSIEVE_WEBHOOK_HOSTS", "https://hooks.internal/"),
        ("RANKSIEVE_TRUSTED_PROXIES", "*"),
        ("RANKSIEVE_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("RANKSIEVE_WEBHOOKS", "-1"),
        ("RANKSIEVE_CACHE_LIMIT_GIB", "0"),
        ("RANKSIEVE_CACHE_LIMIT_GIB", "nan"),
    ],
)
def test_impossible_values_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(ValidationError, match=name.removeprefix("RANKSIEVE_").lower()):
        Settings()


def test_names_are_joined_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKSIEVE_WEBHOOK_HOSTS", "Hooks.internal, *.corp.example,[::1]")

    monkeypatch.setenv("RANKSIEVE_TRUSTED_PROXIES", "127.0.0.1, 10.0.0.0/8,::1")

    assert Settings().webhook_hosts == ["hooks.internal", "*.corp.example", "[::1]"]
    assert list(map(str, Settings().trusted_proxies)) == ["127.0.0.1/32", "10.0.0.0/8", "::1/128"]


@pytest.mark.parametrize(("text", "limit_bytes"), [("0.5", 2**29), ("inf", math.inf)])
def test_the_cache_limit_is_in_gib(monkeypatch: pytest.MonkeyPatch, text: str, limit_bytes: float) -> None:
    monkeypatch.setenv("RANKSIEVE_CACHE_LIMIT_GIB", text)

    assert Settings().cache_limit_bytes == limit_bytes


def test_a_data_directory_may_hold_any_character(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "what? 100% #1")

    assert settings.store_url.endswith("/what%3F 100%25 %231/ranksieve.db")
