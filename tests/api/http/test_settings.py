"""What is wrong with settings is told by the variable or the option that it came from."""

import os

import pytest

from ranksieve.api.http.settings import settings_from
from ranksieve.api.spec_errors import SpecError


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("RANKSIEVE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def refused(**given):
    with pytest.raises(SpecError) as caught:
        settings_from(**given)
    return [(error["field"], error["detail"]) for error in caught.value.errors]


def test_a_value_that_cannot_be_is_told_with_its_variable(monkeypatch):
    monkeypatch.setenv("RANKSIEVE_PORT", "http")
    monkeypatch.setenv("RANKSIEVE_ROOTS", "[/data]")

    assert refused() == [
        (
            "RANKSIEVE_ROOTS",
            "expected folders joined by ':', or a JSON list: Expecting value: line 1 column 2 (char 1); got '[/data]'",
        ),
        (
            "RANKSIEVE_PORT",
            "Input should be a valid integer, unable to parse string as an integer; got 'http'",
        ),
    ]


def test_an_option_is_called_by_its_own_name(monkeypatch):
    monkeypatch.setenv("RANKSIEVE_PORT", "80")

    assert refused(port=70_000) == [("port", "Input should be less than or equal to 65535; got 70000")]


@pytest.mark.parametrize("below", ["", "data"])
def test_a_data_directory_that_is_a_file_is_told_with_its_option(monkeypatch, tmp_path, below):
    file = tmp_path / "file"
    file.write_text("")
    detail = (
        f"expected a folder, {file} is a file: name another one with --data-dir; got {str(file / below)!r}"
    )

    assert refused(data_dir=file / below) == [("data_dir", detail)]

    monkeypatch.setenv("RANKSIEVE_DATA_DIR", str(file / below))
    [(field, _)] = refused()
    assert field == "RANKSIEVE_DATA_DIR"


def test_an_item_of_a_list_is_told_by_its_variable(monkeypatch):
    monkeypatch.setenv("RANKSIEVE_TRUSTED_PROXIES", "10.0.0.1/8")

    [(field, detail)] = refused()

    assert field == "RANKSIEVE_TRUSTED_PROXIES"
    assert detail.endswith("; got '10.0.0.1/8'")


def test_a_secret_is_not_told(monkeypatch):
    monkeypatch.setenv("RANKSIEVE_API_KEY", "")

    [(field, detail)] = refused()

    assert field == "RANKSIEVE_API_KEY"
    assert "got" not in detail


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RANKSIEVE_ROOT", "RANKSIEVE_ROOTS"),
        ("RANKSIEVE_APIKEY", "RANKSIEVE_API_KEY"),
        ("RANKSIEVE_ALLOWED_HOST", "RANKSIEVE_ALLOWED_HOSTS"),
        ("ranksieve_port_", "RANKSIEVE_PORT"),
    ],
)
def test_a_variable_that_there_is_not_is_refused(monkeypatch, name, meant):
    monkeypatch.setenv(name, "s3cret")

    assert refused() == [(name, f"unknown variable; did you mean {meant}?")]


def test_variables_of_clients_and_of_others_are_left_alone(monkeypatch):
    monkeypatch.setenv("RANKSIEVE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("RANKSIEVER", "1")
    monkeypatch.setenv("ranksieve_port", "81")

    assert settings_from().port == 81
