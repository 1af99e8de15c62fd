import pytest
import torch

from search.errors import InfrastructureError
from workers.devices import given, pick_device, present, require_memory


@pytest.fixture
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("_no_gpu")
def test_without_gpu() -> None:
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(InfrastructureError, match="torch sees none"):
        pick_device("cuda")


def test_with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda")
    assert pick_device("cpu") == torch.device("cpu")


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
