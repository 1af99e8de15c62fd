"""Timing this machine, and the data sheets."""

import pytest
import torch

from ranksieve.workers.cost import speed
from ranksieve.workers.cost.speed import DATA_SHEETS, dtype_name, measure, rates_for
from ranksieve.workers.machine import limits

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def test_this_processor_is_timed_and_torch_left_as_it_was() -> None:
    threads = torch.get_num_threads()
    rates = measure("bfloat16", 1)
    assert torch.get_num_threads() == threads
    assert rates.measured
    assert set(rates.flops) == {"bfloat16", "float32", "float64"}
    assert all(1e6 < rate < 1e15 for rate in (*rates.flops.values(), rates.decomposition_flops))
    assert rates.flops["float32"] > rates.decomposition_flops
    assert rates.capacity_bytes > 2**28


@NO_GPU
def test_a_gpu_that_is_not_here_is_taken_from_its_data_sheet() -> None:
    rates = rates_for("cuda", "bfloat16", 8)
    assert rates is DATA_SHEETS["H100"]
    assert not rates.measured
    assert dtype_name("auto", "cuda") == "bfloat16"
    assert dtype_name("float16", "cuda") == "float16"


@pytest.mark.parametrize(
    ("name", "sheet"),
    [("NVIDIA H200", "H200"), ("NVIDIA A100-SXM4-80GB", "A100"), ("NVIDIA GeForce RTX 4090", "H100")],
)
def test_a_gpu_that_is_here_is_not_touched(monkeypatch: pytest.MonkeyPatch, name: str, sheet: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert rates_for("cuda", "bfloat16", 8) is DATA_SHEETS[sheet]


def test_the_dtype_is_the_one_a_job_would_get() -> None:
    assert dtype_name("float32", "cpu") == "float32"
    assert dtype_name("auto", "cpu") in {"float32", "bfloat16"}


def test_threads_that_are_not_here_are_more_of_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    timed_on: list[int] = []

    def rate(*_: str) -> float:
        timed_on.append(torch.get_num_threads())
        return 1e9

    for name in ("_product_rate", "_decomposition_rate", "_memory_rate"):
        monkeypatch.setattr(speed, name, rate)
    monkeypatch.setattr(limits, "processors", lambda: 2)
    measured = measure("float32", 6)
    assert set(timed_on) == {2}
    assert measured.flops == {"float32": 3e9, "float64": 3e9}
    assert (measured.decomposition_flops, measured.memory_bytes) == (3e9, 1e9)
