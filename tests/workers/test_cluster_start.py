"""What can be told of the start of Ray without starting one."""

import pytest
import ray

from search.errors import InfrastructureError
from workers.cluster import Cluster


def test_a_ray_that_does_not_start_is_a_fault_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def time_out(**options: object) -> None:
        raise Exception("The current node timed out during startup.")  # as Ray does

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", time_out)
    with pytest.raises(InfrastructureError, match="Ray did not start: The current node timed out"):
        Cluster().connect()
