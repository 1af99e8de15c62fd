import pytest
import torch

from ranksieve.search.errors import InfrastructureError
from ranksieve.workers.machine.devices import (
    CONTEXT_BYTES,
    accelerator_fault,
    given,
    hold_to,
    lack_of_memory,
    pick_device,
    present,
    require_memory,
)


@pytest.fixture
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("_no_gpu")
def test_without_gpu() -> None:
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(InfrastructureError, match="torch sees none"):
        pick_device("cuda")


def test_with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[tuple[bool, dict[str, bool]]] = []
    monkeypatch.setattr(
        torch, "use_deterministic_algorithms", lambda mode, **options: wanted.append((mode, options))
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("cpu") == torch.device("cpu")
    assert not wanted
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    assert wanted == [(True, {"warn_only": True})] * 2


def test_memory_is_asked_for_with_headroom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (11 * 2**30, 40 * 2**30))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    require_memory(torch.device("cuda"), 10 * 2**30)
    with pytest.raises(InfrastructureError, match=r"11\.0 of 40\.0 GiB free, expected at least 13\.2;"):
        require_memory(torch.device("cuda"), 12 * 2**30)
    require_memory(torch.device("cpu"), 2**60)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    require_memory(torch.device("cuda"), 19 * 2**30)
    with pytest.raises(
        InfrastructureError, match=r"GPU 1 of 2 of this actor: 11\.0 of 40\.0 GiB free, .* 11\.6;"
    ):
        require_memory(torch.device("cuda"), 21 * 2**30)


def test_a_full_gpu_is_not_made_up_for_by_another(monkeypatch: pytest.MonkeyPatch) -> None:
    free = {0: 30 * 2**30, 1: 5 * 2**30}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device.index], 40 * 2**30))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InfrastructureError, match=r"GPU 2 of 2 of this actor: 5\.0 of 40\.0 GiB free"):
        require_memory(torch.device("cuda"), 20 * 2**30)


@pytest.mark.parametrize(("gpus", "fraction"), [(0.5, 0.5 - CONTEXT_BYTES / 2**36), (1.0, None), (0.0, None)])
def test_who_shares_a_gpu_is_held_to_its_part(
    gpus: float, fraction: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[tuple[float, int]] = []
    properties = type("Properties", (), {"total_memory": 2**36})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *limit: held.append(limit))
    hold_to(gpus)
    assert held == ([] if fraction is None else [(fraction, 0)])


@pytest.mark.usefixtures("_no_gpu")
def test_a_part_of_a_gpu_that_only_ray_was_told_of_is_not_looked_for() -> None:
    hold_to(0.5)


def test_an_actor_has_all_gpus_that_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert given(torch.device("cuda")) == [torch.device("cuda", 0), torch.device("cuda", 1)]
    assert given(torch.device("cuda", 1)) == [torch.device("cuda", 1)]
    assert given(torch.device("cpu")) == [torch.device("cpu")]


def test_the_processor_is_present_with_its_memory() -> None:
    kind, name, memory_bytes = present()[0]
    assert (kind, name.endswith(" processors")) == ("cpu", True)
    assert memory_bytes > 2**28


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("tried to allocate 2 GiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    ],
)
def test_whoever_wants_an_accelerators_memory_says_so(error: Exception) -> None:
    assert lack_of_memory(error) == f"out of accelerator memory: {error}"
    assert accelerator_fault(error) is None


def test_an_accelerator_that_is_broken_is_told_from_one_that_is_full() -> None:
    error = torch.AcceleratorError(
        "CUDA error: an illegal memory access was encountered\nTry CUDA_LAUNCH_BLOCKING"
    )
    assert lack_of_memory(error) is None
    assert (
        accelerator_fault(error)
        == "lost its accelerator: CUDA error: an illegal memory access was encountered"
    )
    assert accelerator_fault(RuntimeError("shapes cannot be multiplied")) is None


@pytest.mark.parametrize(
    "says",
    [
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`",
        "cusolver error: CUSOLVER_STATUS_INTERNAL_ERROR, when calling `cusolverDnXsyevd(...)`",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    ],
)
def test_libraries_tell_of_a_broken_accelerator_in_words_of_their_own(says: str) -> None:
    assert accelerator_fault(RuntimeError(says)) == f"lost its accelerator: {says}"
    assert accelerator_fault(ValueError(says)) is None


def test_what_a_library_does_not_do_breaks_nothing() -> None:
    says = "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul(...)`"
    assert accelerator_fault(RuntimeError(says)) is None
