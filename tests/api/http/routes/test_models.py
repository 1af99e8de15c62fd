"""The models under a server's roots, over HTTP and in the client."""

import json

import pytest

from ranksieve.service.server.settings import Settings


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def settings(tmp_path, root):
    return Settings(data_dir=tmp_path / "data", roots=[root])


@pytest.fixture
def tiny(root):
    folder = root / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (folder / "model.safetensors").write_bytes(bytes(12))
    return folder


def test_a_listed_model_makes_a_job_as_it_is(http, spec, tiny):
    body = http.get("/v1/models").json()

    assert body == {
        "models": [
            {
                "model": {"path": "tiny"},
                "location": str(tiny),
                "architecture": "LlamaForCausalLM",
                "weight_bytes": 12,
            }
        ],
        "complete": True,
    }
    spec["model"] = body["models"][0]["model"]
    assert http.post("/v1/jobs", json=spec).status_code == 202


def test_a_listing_that_was_cut_off_says_so(client, root):
    root.joinpath(*"abcdefgh").mkdir(parents=True)

    assert client.models() == {"models": [], "complete": False}


def test_names_that_no_terminal_or_json_would_like(client, root):
    for name in (b"a\n\x1b[31m.gguf", b"[red]\xe2\x80\xae.gguf", b"no text \xff.gguf"):
        with open(bytes(root) + b"/" + name, "wb") as file:
            file.write(b"GGUF")

    found = client.models()["models"]

    assert [one["model"]["path"] for one in found] == ["[red]\u202e.gguf", "a\n\x1b[31m.gguf"]
