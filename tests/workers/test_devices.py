import pytest
import torch

from search.errors import InfrastructureError
from workers.devices import accelerator_fault, given, lack_of_memory, pick_device, present, require_memory


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
    with pytest.raises(InfrastructureError, match=r"11\.0 of 40\.0 GiB free, expected at least 13\.2 GiB"):
        require_memory(torch.device("cuda"), 12 * 2**30)
    require_memory(torch.device("cpu"), 2**60)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    require_memory(torch.device("cuda"), 19 * 2**30)
    with pytest.raises(
        InfrastructureError, match=r"2 GPUs of this actor: 22\.0 of 80\.0 GiB free, .* 23\.1 GiB"
    ):
        require_memory(torch.device("cuda"), 21 * 2**30)


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
