from collections.abc import Callable

import torch
from hypothesis import given
from hypothesis import strategies as st

from ranksieve.workers.forward.batches import make_batches
from ranksieve.workers.types.plan import Example, Row, Span


def text(length: int, first: int = 1) -> Example:
    ids = tuple(range(first, first + length))
    return Example(
        rows=(Row(ids=ids, spans=(Span(choice=0, start=length - 1, ids=(9,)),)),),
        choices=1,
        label=0,
        prompt_ids=ids,
    )


def test_short_rows_come_first_and_are_padded_on_the_right() -> None:
    (batch,) = make_batches([text(3), text(1), text(2)], 1, batch_tokens=9)
    assert batch.examples == (1, 2, 0)
    assert batch.ids_BL.tolist() == [[1, 0, 0], [1, 2, 0], [1, 2, 3]]
    assert batch.mask_BL.tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert batch.tokens == 6
    assert batch.position_N.tolist() == [0, 1, 2]
    assert batch.slot_N.tolist() == [1, 2, 0]


def test_multi_token_answers_are_read_at_their_positions(choice_example: Callable[..., Example]) -> None:
    (batch,) = make_batches([choice_example((4, 4), ((5,), (6, 7), (6, 8, 9)))], 3, batch_tokens=64)
    # Answers 0 reads the bare prompt, answer 1 one token more, answer 2 two more.
    assert batch.ids_BL.tolist() == [[4, 4, 0, 0], [4, 4, 6, 0], [4, 4, 6, 8]]
    assert batch.slot_N.tolist() == [0, 1, 1, 2, 2, 2]
    assert batch.token_N.tolist() == [5, 6, 7, 6, 8, 9]
    assert batch.row_N.tolist() == [0, 1, 1, 2, 2, 2]
    assert batch.position_N.tolist() == [1, 1, 2, 1, 2, 3]


def test_one_token_answers_share_a_row(choice_example: Callable[..., Example]) -> None:
    (batch,) = make_batches([choice_example((4, 4), ((5,), (6,)))], 2, batch_tokens=64)
    assert batch.ids_BL.tolist() == [[4, 4]]
    assert (batch.row_N.tolist(), batch.token_N.tolist(), batch.slot_N.tolist()) == ([0, 0], [5, 6], [0, 1])


def test_slots_count_over_all_examples(choice_example: Callable[..., Example]) -> None:
    examples = [choice_example((4,) * length, ((5,), (6,))) for length in (3, 2)]
    first, second = make_batches(examples, 4, batch_tokens=1)
    assert (first.examples, first.slot_N.tolist()) == ((1,), [4, 5])
    assert (second.examples, second.slot_N.tolist()) == ((0,), [0, 1])


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40), budget=st.integers(1, 100))
def test_budget_holds_and_every_example_is_in_one_batch(lengths: list[int], budget: int) -> None:
    batches = make_batches([text(length) for length in lengths], 1, budget)
    assert sorted(index for batch in batches for index in batch.examples) == list(range(len(lengths)))
    assert sum(batch.tokens for batch in batches) == sum(lengths)
    assert all(batch.ids_BL.numel() <= budget or len(batch.examples) == 1 for batch in batches)


def test_move_keeps_everything() -> None:
    (batch,) = make_batches([text(2)], 1, batch_tokens=9)
    moved = batch.to(torch.device("cpu"))
    assert moved.examples == batch.examples
    assert moved.ids_BL.equal(batch.ids_BL)
