from collections.abc import Callable
from dataclasses import replace

import pytest

from ranksieve.search.errors import ScoringError
from ranksieve.workers.rivals.few_shot import _with_shots, few_shot
from ranksieve.workers.rivals.rival import Setup
from ranksieve.workers.types.plan import Example


def with_splits(setup: Setup, **splits: Example) -> Setup:
    task = replace(setup.task, splits={name: (example,) for name, example in splits.items()})
    return replace(setup, task=task)


def test_right_answers_stand_before_every_prompt(
    make_setup: Callable[..., Setup], choice_example: Callable[..., Example]
) -> None:
    shown = choice_example((10, 11), ((5,), (6, 7)), 1)
    asked = choice_example((12, 13), ((5,), (6, 7)), 0)
    setup = with_splits(make_setup(), calibration=shown, search=asked, test=asked)
    (example,) = _with_shots(setup, 1).task.splits["test"]
    prefix = (10, 11, 6, 7)  # two line feeds are no token to this tokenizer
    assert example.prompt_ids == (*prefix, 12, 13)
    assert [row.ids for row in example.rows] == [(*prefix, 12, 13), (*prefix, 12, 13, 6)]
    assert [[span.start for span in row.spans] for row in example.rows] == [[5], [5]]


def test_what_ends_an_answer_is_shown_where_no_line_break_does(
    make_setup: Callable[..., Setup], text_example: Callable[..., Example]
) -> None:
    shown = replace(text_example((10, 11), (8, 2), ("w5",)), end=2)
    setup = with_splits(make_setup("generate"), calibration=shown, search=shown, test=shown)
    (example,) = _with_shots(setup, 1).task.splits["test"]
    assert example.prompt_ids == (10, 11, 8, 10, 11)
    assert example.rows[0].spans[0].ids == (8, 2)
    lines = replace(setup, task=replace(setup.task, several_lines=True))
    assert _with_shots(lines, 1).task.splits["test"][0].prompt_ids == (10, 11, 8, 2, 10, 11)


def test_as_many_records_are_shown_as_fit(make_setup: Callable[..., Setup]) -> None:
    (rival,) = few_shot(make_setup(context=20))
    assert rival.settings == {"shots": 2}
    with pytest.raises(ScoringError, match="longer than the model's context"):
        list(few_shot(make_setup(context=4)))


@pytest.mark.parametrize(("kind", "chat"), [("lm", False), ("choice", True)])
def test_texts_and_chats_have_no_shots(make_setup: Callable[..., Setup], kind: str, chat: bool) -> None:
    with pytest.raises(ScoringError, match="needs prompts"):
        list(few_shot(make_setup(kind, chat_template=chat)))
