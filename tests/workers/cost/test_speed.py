"""Timing this machine, and the data sheets."""

import pytest
import torch

from ranksieve.workers.cost import speed
from ranksieve.workers.cost.speed import DATA_SHEETS, dtype_name, measure, rates_for

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def test_this_processor_is_timed_and_torch_left_as_it_was() -> None:
    threads = torch.get_num_threads()
    rates = measure("bfloat16", 1)
    assert torch.get_num_threads() == threads
    assert rates.measured
    assert set(rates.flops) == {"bfloat16"}
    assert 1e6 < rates.decomposition_flops < rates.flops["bfloat16"] < 1e15
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


def test_threads_are_assumed_to_be_as_fast_as_the_one_that_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed_on: list[int] = []

    def rates_of_a_thread(_: str) -> tuple[float, float]:
        timed_on.append(torch.get_num_threads())
        return 1e9, 1e8

    monkeypatch.setattr(speed, "_rates_of_a_thread", rates_of_a_thread)
    measured = measure("float32", 6)
    assert timed_on == [1]
    assert (measured.flops, measured.decomposition_flops) == ({"float32": 6e9}, 6e8)


def test_the_rate_of_a_thread_is_its_work_over_the_fastest_time(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {"product": 2_000_000, "decomposition": 4_000_000}
    monkeypatch.setattr(speed, "last_of", lambda _: taken)
    assert measure("float32", 1).flops == {"float32": pytest.approx(2 * 512 * 768**2 / 2e-3)}
    assert measure("float32", 1).decomposition_flops == pytest.approx(9 * 256**3 / 4e-3)
