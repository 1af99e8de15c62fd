from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import Hub, looking_elsewhere, serving
from huggingface_hub import constants

from ranksieve.search.errors import InfrastructureError, InputError
from ranksieve.workers.export.push import push
from ranksieve.workers.model.hub import fetch

pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content=:DeprecationWarning"
)  # of the library's own request
ID = "somebody/small-films"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A running hub without models, and the token of an account that may write."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with looking_elsewhere(monkeypatch, tmp_path) as look, serving() as served:
        monkeypatch.setenv("HF_TOKEN", Hub.TOKEN)
        look(served.server_port)
        yield served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    for name in ("config.json", "README.md", "ranksieve.json", "model.safetensors", "ranksieve_model.py"):
        (made / name).write_bytes(f"content of {name}".encode())
    (made / ".env").write_text("PASSWORD=secret")
    return made


def held_by(hub: Hub) -> dict[str, bytes]:
    return hub.files[hub.commits[ID]["main"]]


def test_a_pushed_model_is_private_and_comes_back_as_it_went(hub: Hub, folder: Path) -> None:
    assert push(folder, ID) == f"{constants.ENDPOINT}/{ID}"

    back = fetch(ID, None, ["*"], "")
    sent = {file.name: file.read_bytes() for file in folder.iterdir() if file.name != ".env"}
    assert {file.name: file.read_bytes() for file in back.iterdir() if file.name != ".gitattributes"} == sent
    assert ID not in hub.public


def test_weight_files_of_the_model_before_are_removed(hub: Hub, folder: Path) -> None:
    push(folder, ID, public=True)
    assert ID in hub.public
    shard = "model-00001-of-00002.safetensors"
    (folder / "model.safetensors").rename(folder / shard)

    push(folder, ID, public=True)

    assert "model.safetensors" not in held_by(hub)
    assert held_by(hub)[shard] == (folder / shard).read_bytes()
    assert ".gitattributes" in held_by(hub)


@pytest.mark.parametrize("public", [False, True])
def test_nothing_is_sent_to_a_repository_that_others_see_than_was_said(
    hub: Hub, folder: Path, public: bool
) -> None:
    push(folder, ID, public=public)
    (folder / "config.json").write_text("another model")

    with pytest.raises(InputError, match=rf"public: {ID} exists and is {'public' if public else 'private'}"):
        push(folder, ID, public=not public)

    assert held_by(hub)["config.json"] != b"another model"


def test_a_folder_that_is_no_export_is_refused(hub: Hub, folder: Path) -> None:
    (folder / "ranksieve.json").unlink()
    (folder / "model.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"has no ranksieve\.json, \*\.safetensors; give a folder that ranksieve"
    ):
        push(folder, ID)
    assert not hub.seen


@pytest.mark.parametrize("id", ["model", "a/b/c", "some body/model", "../model", ""])
def test_an_id_that_names_no_repository_is_refused(hub: Hub, folder: Path, id: str) -> None:
    with pytest.raises(InputError, match="repository: expected owner/name"):
        push(folder, id)
    assert not hub.seen


def test_without_a_token_it_says_how_to_give_one(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(InputError, match="needs a token that may write; give it as HF_TOKEN"):
        push(folder, ID)
    assert not hub.seen


def test_a_token_that_may_not_write_is_told_so(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_another_account")
    with pytest.raises(InputError, match=f"token: the token may not write to {ID}"):
        push(folder, ID)
    assert ID not in hub.commits


def test_a_hub_that_fails_is_not_the_users_fault(hub: Hub, folder: Path) -> None:
    hub.failing = 500
    with pytest.raises(InfrastructureError, match="does not answer"):
        push(folder, ID)
