"""A hub of its own, over HTTP: a model of the real kind, asked for by the real library."""

import socket
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants, get_session
from huggingface_hub.errors import OfflineModeIsEnabled
from transformers import LlamaForCausalLM

from ranksieve.search.errors import InputError
from ranksieve.workers.cache.folders import FolderCache
from ranksieve.workers.machine.faults import machine_fault
from ranksieve.workers.model import hub
from ranksieve.workers.model.loading import load_prepared, prepare_model
from ranksieve.workers.model.sources import Weights, load_config, load_tokenizer, resolve
from ranksieve.workers.types.plan import ModelSource

CPU = torch.device("cpu")
SILENT_S = 0.05


def source(revision: str | None = None, id: str = "some/model") -> ModelSource:
    return ModelSource(kind="hub", location=id, revision=revision)


def refused(weights: Weights = "fetched", **options: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        resolve(source(**options), weights)
    return caught.value


def fault(error: InputError) -> bool:
    """Whether a job that meets it is tried again."""
    return machine_fault(error) is not None


def test_an_estimate_takes_configuration_and_tokenizer_only(served: Any, llama_folder: Path) -> None:
    local = resolve(source(), "ignored")

    assert load_config(local).vocab_size == 48
    assert load_tokenizer(local).tokenize("w1 w2") == ["w1", "w2"]
    heads = {file.name for file in llama_folder.iterdir()} - {"model.safetensors"}
    assert served.fetched == dict.fromkeys(heads, 1)


def test_a_submission_looks_at_the_list_of_files(served: Any) -> None:
    resolve(source(), "listed")

    asked = Counter(path.split("/")[5] for _, path in served.seen if path.startswith("/api/models/"))
    assert asked == {"revision": 1, "tree": 1}
    assert "model.safetensors" not in served.fetched


@pytest.mark.parametrize("weights", ["listed", "fetched"])
def test_a_model_without_weights_of_its_own_is_refused_by_submission_and_job(
    served: Any, weights: Weights
) -> None:
    files = served.files[served.commits[served.ID]["main"]]
    served.push({path: content for path, content in files.items() if path != "model.safetensors"}, "main")

    error = refused(weights)

    assert error.field == "model.hub"
    assert "holds no .safetensors weights, as save_pretrained writes them" in error.message
    resolve(source(), "ignored")


def test_no_model_of_the_hub_has_files_of_this_machine_read(served: Any) -> None:
    files = served.files[served.commits[served.ID]["main"]]
    served.push(files | {"special_tokens_map.json": b'{"vocab_file": "/etc/passwd"}'}, "main")

    for weights in ("ignored", "listed", "fetched"):
        assert "special_tokens_map.json names '/etc/passwd' to read" in refused(weights).message


FORMS = ["{0}", "[{0}]", "{{train: {0}}}", "[{{split: train, path: [a.csv, {0}]}}]"]


@pytest.mark.parametrize(
    ("path", "data_files"),
    [
        *(("http://169.254.169.254/latest/meta-data.csv", form) for form in FORMS),
        ("zip://a.csv::https://example.org/a.zip", FORMS[0]),
        ("/etc/passwd", FORMS[0]),
        ("~/a.csv", FORMS[0]),
        ("data/../../a.csv", FORMS[0]),
    ],
)
def test_what_a_data_set_would_have_read_elsewhere_is_found(served: Any, path: str, data_files: str) -> None:
    configs = f"configs:\n- config_name: a\n  data_files: {data_files.format(path)}\n"
    served.push({"README.md": f"---\n{configs}---\n# A data set\n".encode()}, "main")
    assert hub.files_elsewhere(served.ID, None) == [path]

    served.push({".huggingface.yaml": configs.encode()}, "second")
    assert hub.files_elsewhere(served.ID, "second") == [path]

    served.push({"README.md": f"---\nconfigs:\n- data_dir: {path}\n---\n".encode()}, "third")
    assert hub.files_elsewhere(served.ID, "third") == [path]


def test_what_a_data_set_may_say_of_itself(served: Any) -> None:
    sound = "---\nconfigs:\n- config_name: a::b\n  sep: '://'\n  data_dir: data\n  data_files: ['*.csv', 'b/**']\n---\n"
    for number, text in enumerate(
        ["# None", "---\nconfigs: 5\n---\n", sound, "---\na: &a [*a]\nconfigs: *a\n---\n"]
    ):
        served.push({"README.md": text.encode(), ".huggingface.yaml": b"7"}, str(number))
        assert hub.files_elsewhere(served.ID, str(number)) == []
    served.push({"a.csv": b"a"}, "main")
    assert hub.files_elsewhere(served.ID, "main") == []

    served.push({".huggingface.yaml": b"{"}, "broken")
    with pytest.raises(ValueError, match="its description is not valid YAML"):
        hub.files_elsewhere(served.ID, "broken")


def test_a_job_fetches_the_weights_and_what_is_loaded_with_them(
    served: Any, llama_folder: Path, make_llama: Callable[[], LlamaForCausalLM], tmp_path: Path
) -> None:
    resolve(source(), "listed")
    local = resolve(source())
    prepared = prepare_model(local, CPU, FolderCache(tmp_path / "cache"))

    assert served.fetched == {file.name: 1 for file in llama_folder.iterdir()}
    loaded, expected = (
        load_prepared(prepared.folder, CPU, torch.float32).state_dict(),
        make_llama().state_dict(),
    )
    assert all(torch.allclose(loaded[name], weight, atol=0.01) for name, weight in expected.items())
    served.seen.clear()
    assert resolve(source()) == local
    assert [path for _, path in served.seen] == [f"/api/models/{served.ID}/revision/main"]


def test_each_revision_is_a_model_of_its_own(served: Any) -> None:
    files = served.files[served.commits[served.ID]["main"]]
    commit = served.push(files | {"README.txt": b"the second"}, "v2", "refs/pr/3")
    first, second = resolve(source()).location, resolve(source("v2")).location

    assert first != second
    assert (Path(second) / "README.txt").read_text() == "the second"
    assert resolve(source("refs/pr/3")).location == resolve(source(commit)).location == second


@pytest.mark.parametrize("weights", ["ignored", "listed", "fetched"])
def test_what_the_hub_does_not_have_is_told(served: Any, weights: Weights) -> None:
    missing = refused(weights, id="some/other")
    assert (missing.field, fault(missing)) == ("model.hub", False)
    assert "there is no model 'some/other', or it is private; check the id, or give" in missing.message

    for revision in ("v3", "0" * 40):
        unknown = refused(weights, revision=revision)
        assert (unknown.field, fault(unknown)) == ("model.revision", False)
        assert unknown.message == f"{served.ID!r} has no {revision!r}; give a branch, tag or commit of it"


@pytest.mark.parametrize("token", [None, "hf_of_somebody_else"])
def test_a_gated_model_is_for_those_who_were_let_in(
    served: Any, monkeypatch: pytest.MonkeyPatch, token: str | None
) -> None:
    served.gated = True
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)

    error = refused("listed")

    assert (error.field, fault(error)) == ("model.hub", False)
    assert "'some/model' is gated" in error.message
    assert "as HF_TOKEN" in error.message
    monkeypatch.setenv("HF_TOKEN", served.TOKEN)
    assert (Path(resolve(source()).location) / "model.safetensors").is_file()


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_hub_that_fails_is_asked_again_later(served: Any, status: int) -> None:
    served.failing = status
    error = refused()
    assert (error.field, fault(error)) == ("model.hub", True)
    assert f"could not be fetched from {constants.ENDPOINT}: HfHubHTTPError: " in error.message
    assert f"{status} " in error.message


def test_so_is_one_that_breaks_off(served: Any) -> None:
    resolve(source(), "ignored")
    served.cut = "model.safetensors"
    error = refused()
    assert (error.field, fault(error)) == ("model.hub", True)
    assert "ReadError" in error.message
    served.cut = ""
    assert (Path(resolve(source()).location) / "model.safetensors").is_file()


def test_where_nothing_listens_the_cache_has_to_do(served: Any, at: Callable[[int], None]) -> None:
    resolve(source(), "listed")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # nobody else's, and it does not listen
        at(nobody.getsockname()[1])

        resolve(source(), "ignored")
        resolve(source(), "listed")
        for error in (refused(), refused("ignored", id="some/other")):
            assert (error.field, fault(error)) == ("model.hub", True)
            assert "ConnectError: [Errno 111] Connection refused; check the id, your network" in error.message


@pytest.fixture
def silent(at: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that takes connections, and says nothing."""
    monkeypatch.setattr(hub, "SILENCE_S", SILENT_S)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        at(listening.getsockname()[1])
        yield


@pytest.mark.usefixtures("silent")
def test_a_silent_hub_is_given_up() -> None:
    hub.configure()
    error = refused()
    assert (error.field, fault(error)) == ("model.hub", True)
    assert "ReadTimeout: timed out; check the id, your network" in error.message


def test_a_check_asks_by_rules_of_its_own(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.configure()
    resolve(source())
    assert all("hf_hub/" in agent and "torch/" not in agent for agent in served.agents)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # the library's rules hold, too
    with pytest.raises(OfflineModeIsEnabled):
        get_session().get(constants.ENDPOINT)
