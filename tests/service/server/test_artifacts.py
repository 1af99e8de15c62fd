from pathlib import Path

import pytest

from ranksieve.search.errors import NotFoundError
from ranksieve.service.server import artifacts


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An artifact folder with two files, beside a secret that it must not give away."""
    (tmp_path / "secret.txt").write_text("secret")
    directory = tmp_path / "artifacts"
    (directory / "model").mkdir(parents=True)
    (directory / "report.json").write_text("{}")
    (directory / "model" / "config.json").write_text("[1]")
    (directory / "file-link").symlink_to(tmp_path / "secret.txt")
    (directory / "folder-link").symlink_to(tmp_path)
    (directory / "inner-link").symlink_to(directory / "report.json")
    return directory


def test_files_are_listed_by_relative_name_without_links(directory: Path) -> None:
    assert artifacts.list(directory) == [
        {"name": "model/config.json", "bytes": 3},
        {"name": "report.json", "bytes": 2},
    ]


def test_a_job_that_exported_nothing_has_none(tmp_path: Path) -> None:
    assert artifacts.list(tmp_path / "absent") == []
    with pytest.raises(NotFoundError):
        artifacts.resolve(tmp_path / "absent", "report.json")


def test_a_file_that_vanishes_while_listing_is_left_out(directory: Path) -> None:
    assert artifacts._regular_file_bytes(directory / "moved") is None


def test_a_file_that_vanishes_before_it_is_read_is_not_there(directory: Path) -> None:
    path = artifacts.resolve(directory, "report.json")
    path.unlink()
    with pytest.raises(NotFoundError, match=r"no artifact 'report.json' any more"):
        artifacts.sha256(path)


def test_every_listed_name_resolves(directory: Path) -> None:
    sizes = {artifact["name"]: artifact["bytes"] for artifact in artifacts.list(directory)}

    assert {name: artifacts.resolve(directory, name).stat().st_size for name in sizes} == sizes


def test_a_folder_reached_over_a_link_is_served(directory: Path, tmp_path: Path) -> None:
    link = tmp_path / "data-link"
    link.symlink_to(directory)

    assert artifacts.resolve(link, "report.json") == directory / "report.json"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "model",
        "absent",
        "../secret.txt",
        "model/../../secret.txt",
        "model/../report.json",
        "/etc/passwd",
        "file-link",
        "folder-link/secret.txt",
        "inner-link",
        "report.json/x",
        "nul\0",
        "x" * 5000,
        "surrogate\udc80",
    ],
)
def test_anything_else_is_not_found(directory: Path, name: str) -> None:
    with pytest.raises(NotFoundError, match="there is no artifact"):
        artifacts.resolve(directory, name)


def test_the_absolute_path_of_an_artifact_is_no_name(directory: Path) -> None:
    with pytest.raises(NotFoundError):
        artifacts.resolve(directory, str(directory.parent / "secret.txt"))
