"""Factors of other objectives than the task's loss: the error of the output, and that of the weights.

They are a job's factors with isotropic gradients (LLM-Sieve, arXiv 2505.18350; SVD-LLM, arXiv 2403.07378), and with
isotropic inputs as well (LASER, arXiv 2312.13558). Energies are shares of the matrix's own objective.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Literal
from unittest.mock import patch

import torch

from ranksieve.workers.factors import group
from ranksieve.workers.factors.decomposition import Factors, factor

Projection = Literal["task", "output", "weight"]


@contextmanager
def projecting(projection: Projection) -> Iterator[None]:
    """Let preparation in this process make factors of a projection."""
    made = factor if projection == "task" else partial(_factor_by, projection)
    with patch.object(group, "factor", made):
        yield


def _factor_by(
    projection: Projection,
    weight_OD: torch.Tensor,
    max_rank: int,
    forward_gram: torch.Tensor | None,
    _: torch.Tensor | None,
    precision: torch.dtype,
) -> Factors:
    inputs = forward_gram if projection == "output" else None
    found = factor(weight_OD, max_rank, inputs, None, precision)
    total = found.energy_K.sum().clamp_min(torch.finfo(precision).tiny)
    return replace(found, energy_K=found.energy_K / total)
