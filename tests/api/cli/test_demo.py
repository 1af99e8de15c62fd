"""How the demo ends; that it runs is for the end-to-end tests."""

import json

import pytest

from ranksieve.api.cli import demo as module
from ranksieve.api.cli.errors import FAILED, INTERRUPTED
from ranksieve.api.cli.follow import Outcome
from ranksieve.api.spec_errors import SpecError


@pytest.mark.parametrize(
    ("state", "interrupted", "code"),
    [
        ("cancelled", True, INTERRUPTED),
        ("succeeded", True, INTERRUPTED),  # its end came before the request to cancel it
        ("failed", False, FAILED),
    ],
)
def test_the_exit_code_tells_how_the_job_ended(monkeypatch, tmp_path, build, state, interrupted, code):
    class Assets:
        gguf, reviews = tmp_path / "model.gguf", tmp_path / "reviews.jsonl"

    monkeypatch.setattr(module, "fetch", lambda cache_dir: Assets)
    monkeypatch.setattr(module.wiring, "build", build)
    outcome = Outcome(
        job={"id": "j1", "state": state, "error": None, "result": {"artifact": "model"}},
        interrupted=interrupted,
    )
    monkeypatch.setattr(module, "run_job", lambda *_: outcome)
    monkeypatch.setattr(module, "sample_choices", lambda *_: [])
    monkeypatch.setattr(module, "_show", lambda *_: None)

    ended = module.demo(data_dir=tmp_path / "data", seed=0, effort="normal", as_json=False)

    assert ended == code


def test_a_refused_demo_is_one_json_object(capfd, tmp_path):
    with pytest.raises(SpecError):
        module.demo(data_dir=tmp_path, seed=0, effort="magic", as_json=True)

    (error,) = json.loads(capfd.readouterr().out)["error"]["errors"]
    assert error["field"] == "effort"
