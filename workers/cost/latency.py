"""Latency table of a device, what it is measured from and under which conditions."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from ranksieve.search.space.latency import Curve, LatencyTable
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
        table = {
            "curves": [
                {
                    "ranks": list(curve.ranks),
                    "nanoseconds": list(curve.nanoseconds),
                    "dense_nanoseconds": curve.dense_nanoseconds,
                    "matrices": list(curve.matrices),
                }
                for curve in self.table.curves
            ],
            "other_nanoseconds": self.table.other_nanoseconds,
        }
        return {**asdict(replace(self, table=None)), "table": table}  # type: ignore[arg-type]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Return the latency of `to_json`, also after a round trip through JSON."""
        curves = tuple(
            Curve(
                ranks=tuple(curve["ranks"]),
                nanoseconds=tuple(curve["nanoseconds"]),
                dense_nanoseconds=curve["dense_nanoseconds"],
                matrices=tuple(curve["matrices"]),
            )
            for curve in data["table"]["curves"]
        )
        table = LatencyTable(curves=curves, other_nanoseconds=data["table"]["other_nanoseconds"])
        return cls(**{**data, "table": table, "workload": Workload(**data["workload"])})
