import weakref
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from ranksieve.search.space.matrix import DENSE, MatrixShape
from ranksieve.workers.forward import blockwise
from ranksieve.workers.forward.blockwise import flows_of, side_by_side
from ranksieve.workers.model.switchable import SwitchableModel
from ranksieve.workers.types.plan import EncodedTask


def test_what_a_block_has_read_is_gone_before_the_next_one_runs(
    candidate: tuple[SwitchableModel, Sequence[MatrixShape], list[int]],
    make_task: Callable[..., EncodedTask],
) -> None:
    switchable, matrices, ranks = candidate
    models = [ranks, [DENSE] * len(matrices)]
    smaller, dense = flows_of(switchable, models, make_task("choice").splits["search"], 40)
    names = [[matrix.name for matrix in matrices if matrix.layer == index] for index in range(2)]
    read: list[weakref.ref[torch.Tensor]] = []
    still_there: list[int] = []

    def note(_: nn.Module, __: object) -> None:
        still_there.append(sum(rows() is not None for rows in read))

    dense.blocks[1].register_forward_pre_hook(note)
    for groups in side_by_side([smaller], dense, names):
        rows_TD = [one for group in groups for one in group.dense_TD or ()]
        assert len(rows_TD) == len(groups) * len(dense)
        read += map(weakref.ref, rows_TD)
        del rows_TD
        if not still_there:
            assert all(rows() is not None for rows in read)
    assert still_there[0] == 0


@pytest.mark.parametrize("rows", [1, 80, 10_000])
def test_rows_come_together_in_their_order_and_none_is_lost(
    candidate: tuple[SwitchableModel, Sequence[MatrixShape], list[int]],
    make_task: Callable[..., EncodedTask],
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
) -> None:
    monkeypatch.setattr(blockwise, "ROWS", rows)
    switchable, matrices, ranks = candidate
    models = [ranks, ranks[::-1], [DENSE] * len(matrices)]
    *smaller, dense = flows_of(switchable, models, make_task("choice").splits["search"], 40)
    assert len(dense) > 2
    [group, *_] = next(
        side_by_side(smaller, dense, [[matrix.name for matrix in matrices if matrix.layer == 0]])
    )
    alone = [flow.input_of(name, index) for flow, name in group.places for index in range(len(flow))]

    x_TD, dense_TD = zip(*group, strict=True)
    assert torch.equal(torch.cat(x_TD), torch.cat(alone))
    once = torch.cat(list(group.read_dense()))
    assert torch.equal(torch.cat(dense_TD), torch.cat([once] * len(group.places)))
    sizes = [len(part) for part in x_TD]
    assert max(sizes) <= max(rows, *map(len, alone))
    assert (len(sizes) == len(alone), len(sizes) == 1) == (rows == 1, rows == 10_000)
