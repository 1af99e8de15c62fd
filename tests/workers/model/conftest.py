"""A hub to have models of, and Grams of a tiny task."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_hub import Hub, looking_elsewhere, serving
from transformers import PreTrainedModel

from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.factors.calibration import Calibrator
from ranksieve.workers.factors.grams import Grams
from ranksieve.workers.model.matrices import find_matrices
from ranksieve.workers.types.plan import EncodedTask


@pytest.fixture
def gather(make_task: Callable[..., EncodedTask]) -> Callable[..., Grams]:
    """Calibrates on examples with two answers, whose gradients do not depend on a draw."""
    examples = [example for example in make_task("choice").splits["calibration"] if example.choices == 2]

    def run(
        model: PreTrainedModel, matrices: tuple[MatrixShape, ...] | None = None, budget: int = 10_000
    ) -> Grams:
        with Calibrator(model, matrices or find_matrices(model)) as calibrator:
            for _ in calibrator.run("choice", examples, budget, 0):
                pass
        return calibrator.grams

    return run


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[int], None]]:
    """Lets the library look for its hub at a port of this machine, with an empty cache and nobody's token."""
    with looking_elsewhere(monkeypatch, tmp_path) as look:
        yield look


@pytest.fixture
def served(at: Callable[[int], None], llama_folder: Path) -> Iterator[Hub]:
    """A running hub with a model, and beside what is loaded of it what must not be."""
    files = {file.name: file.read_bytes() for file in llama_folder.iterdir()}
    others = {
        "pytorch_model.bin": b"pickled",
        "modeling_evil.py": b"raise",
        "original/model.safetensors": b"another",
    }
    with serving() as hub:
        hub.push(files | others, "main")
        at(hub.server_port)
        yield hub
