"""The command line with fakes behind it."""

import json

import pytest
from typer.testing import CliRunner

from ranksieve.api.cli import main
from ranksieve.api.cli.deps import Parts
from ranksieve.api.client.client import Client
from ranksieve.search.errors import InputError


@pytest.fixture
def spec_file(tmp_path, spec):
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(spec))
    return path


@pytest.fixture
def ranksieve(build, request, tmp_path, monkeypatch):
    """Runs the command line with the fakes behind it; client commands reach the `http` application."""
    monkeypatch.chdir(tmp_path)

    def connect(url, api_key):
        http = request.getfixturevalue("http")
        return Client("http://127.0.0.1", api_key, transport=http._transport, wait=lambda seconds: None)

    def evaluate(settings, model_dir, spec, split):
        print("a library's chatter")  # noqa: T201
        return {"metric": {split: 0.5}, "model": str(model_dir)}

    def multiply_out(model_dir, output):
        if not model_dir.is_dir():
            raise InputError("model_dir", f"no folder {model_dir}")
        output.mkdir()

    parts = Parts(
        build=build,
        connect=connect,
        evaluate=evaluate,
        multiply_out=multiply_out,
        quantize=lambda model_dir, output, bits: (output / str(bits)).mkdir(parents=True),
        push=lambda model_dir, repository, public: f"{model_dir.name} to {repository}, public {public}",
        demo=lambda **options: len(options),
    )

    def run(*arguments):
        return CliRunner().invoke(main.app, [str(argument) for argument in arguments], obj=parts)

    return run
