"""Latency table of a device, what it is measured from and under which conditions."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ranksieve.search.space.latency import LatencyTable
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.workers.cost.workload import Workload


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyPlan:
    """Matrices and workload to time.

    `model_folder`: the prepared model. `rank_step`: ranks are multiples of it. `threads`: threads of torch.
    """

    model_folder: Path
    matrices: tuple[MatrixShape, ...]
    rank_step: int
    workload: Workload
    threads: int
    device: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """A latency table and the conditions of its measurement.

    `stretched`, `stretched_ranks`: time inside the model over time alone, of dense matrices and of low ranks.
    `checked_nanoseconds`: time of the model at half of every matrix. `expected_nanoseconds`: the same by the table.
    """

    table: LatencyTable
    device: str
    dtype: str
    threads: int
    workload: Workload
    stretched: float
    stretched_ranks: float
    checked_nanoseconds: int
    expected_nanoseconds: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; `from_json` reverses it."""
        values: dict[str, Any] = _adapter().dump_python(self, mode="json", exclude={"table": {"_by_name"}})
        return values

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Latency":
        """Return the latency of `to_json`, also after a round trip through JSON."""
        return _adapter().validate_python(data)


@cache
def _adapter() -> TypeAdapter[Latency]:
    return TypeAdapter(Latency)
