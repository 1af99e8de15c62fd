import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ranksieve.search.errors import InputError
from ranksieve.workers.model.checks import check_headers, check_local, check_sizes
from ranksieve.workers.types.plan import ModelSource

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "model.safetensors").write_bytes(b"never read")
    return tmp_path


def source(location: Path, kind: str = "path") -> ModelSource:
    return ModelSource(kind=kind, location=str(location))  # type: ignore[arg-type]


def refused(location: Path, parsed_bytes: float = 1000, kind: str = "path") -> str:
    with pytest.raises(InputError) as caught:
        check_local(source(location, kind), parsed_bytes)
    assert caught.value.field == "model.path"
    return caught.value.message


def test_a_folder_is_told_by_its_configuration(folder: Path) -> None:
    assert check_local(source(folder)) == CONFIG


def test_weights_are_only_missed_where_they_are_wanted(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert check_local(source(folder), weights=False) == CONFIG
    message = refused(folder)
    assert "holds no .safetensors weights" in message
    assert "pickled ones are never loaded: convert them if there are any" in message


@pytest.mark.parametrize("kept", [0, 5, -1])
def test_a_file_of_weights_that_is_cut_off_is_named(folder: Path, kept: int) -> None:
    file = folder / "model.safetensors"
    save_file({"weight": np.zeros((4, 4))}, file)
    check_headers(source(folder))
    file.write_bytes(file.read_bytes()[:kept])

    with pytest.raises(
        InputError, match=r"model\.safetensors is damaged .*; fetch or save it again"
    ) as caught:
        check_headers(source(folder))
    assert caught.value.field == "model.path"


def test_a_gguf_file_has_none(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF")
    assert check_local(source(file, "gguf")) == {}


@pytest.mark.parametrize(("config", "got"), [("[]", "list"), ("null", "NoneType"), ('"llama"', "str")])
def test_a_configuration_that_is_no_object_is_refused(folder: Path, config: str, got: str) -> None:
    (folder / "config.json").write_text(config)
    assert refused(folder) == f"config.json must hold a JSON object, got {got}"


def test_json_that_can_be_parsed_but_not_searched_is_refused(folder: Path) -> None:
    """Python recurses further in parsing than in looking through what was parsed."""

    def deeper_and_deeper() -> None:
        for depth in range(100, 100_000, 100):
            (folder / "nested.json").write_text('{"a": ' + "[" * depth + "]" * depth + "}")
            check_local(source(folder))

    with pytest.raises(InputError, match=r"nested\.json is not valid JSON"):
        deeper_and_deeper()


def test_large_json_is_only_looked_into_where_that_is_asked(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{" + " " * 1000)
    assert check_local(source(folder), 1000) == CONFIG
    assert "tokenizer.json is not valid JSON" in refused(folder, 1001)


def test_a_configuration_larger_than_what_is_looked_into_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG) + " " * 1000)
    assert refused(folder) == "config.json has more than 1,000 bytes, too many to look into"


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "vocab.txt"])
@pytest.mark.parametrize("what", ["pipe", "folder", "link in a circle", "link to nothing"])
def test_what_is_no_regular_file_is_refused_and_not_opened(folder: Path, name: str, what: str) -> None:
    path = folder / name
    path.unlink(missing_ok=True)
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    else:
        path.symlink_to(path if what == "link in a circle" else folder / "gone")
    expected = "expected a folder with config.json" if name == "config.json" else f"{name} is not a regular"
    assert expected in refused(folder)


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    assert "is a folder; name the gguf file in it" in refused(tmp_path, kind="gguf")
    file = tmp_path / "model.gguf"
    assert "no such file" in refused(file, kind="gguf")
    os.mkfifo(file)
    assert "no such file" in refused(file, kind="gguf")
    file.unlink()
    file.write_bytes(b"PK\x03\x04 a zip file")
    assert "does not start with GGUF" in refused(file, kind="gguf")


@pytest.mark.as_user
def test_what_the_server_may_not_read_is_refused(folder: Path) -> None:
    (folder / "config.json").chmod(0)
    assert refused(folder) == f"this server may not read {folder}/config.json; change its permissions"
    (folder / "config.json").chmod(0o600)
    (folder / "model.safetensors").chmod(0)
    assert refused(folder) == f"this server may not read {folder}/model.safetensors; change its permissions"
    (folder / "model.gguf").write_bytes(b"GGUF")
    (folder / "model.gguf").chmod(0)
    assert "may not read" in refused(folder / "model.gguf", kind="gguf")


@pytest.mark.parametrize(("params", "refused"), [(2 * 168, False), (2 * 168 + 1, True), (2**40, True)])
def test_a_configuration_may_not_describe_more_than_the_files_hold(
    tmp_path: Path, params: int, refused: bool
) -> None:
    source = ModelSource(kind="path", location=str(tmp_path))
    check_sizes(source, params)  # there are no files yet
    (tmp_path / "model-1.safetensors").write_bytes(b"0" * 100)
    (tmp_path / "model-2.safetensors").write_bytes(b"0" * 68)
    if not refused:
        check_sizes(source, params)
        return
    with pytest.raises(InputError, match=rf"model\.path: .*{params:,} parameters.* hold 168 bytes"):
        check_sizes(source, params)


def test_a_gguf_file_may_be_small_but_not_that_small(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"0" * 190)
    check_sizes(ModelSource(kind="gguf", location=str(file)), 1000)
    with pytest.raises(InputError, match=r"model\.path: .*1,001 parameters.* hold 190 bytes"):
        check_sizes(ModelSource(kind="gguf", location=str(file)), 1001)
