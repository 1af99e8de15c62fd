from typing import Any

import pytest

from ranksieve.search.errors import InputError
from ranksieve.workers.data.choices import Options, Question, check_tokens, labelled, options_of
from ranksieve.workers.types.plan import TaskPlan


def task(**options: Any) -> TaskPlan:
    return TaskPlan(kind="choice", prompt="{{ q }}", answer="{{ a }}", **options)


def questions(*rows: tuple[str, Any]) -> list[Question]:
    return [
        Question(f"record {i} of a.jsonl", "prompt", (answer,), {"q": "?", "opts": options})
        for i, (answer, options) in enumerate(rows, 1)
    ]


FIXED = task(choices={"pos": "positive", "neg": "negative"})
OWN = task(choices_field="opts")
ARC = {"text": ["red", "blue"], "label": ["1", "2"]}


def test_fixed_choices_are_read_by_label() -> None:
    options, labels = labelled(FIXED, questions(("neg", None), (" pos\n", None)))
    assert labels == [1, 0]
    assert options == [Options(("positive", "negative"), ("pos", "neg"))] * 2


@pytest.mark.parametrize("label", ["positive", "Neg", "0", "A", ""])
def test_label_outside_fixed_choices(label: str) -> None:
    with pytest.raises(InputError) as caught:
        labelled(FIXED, questions(("pos", None), (label, None)))
    assert caught.value.field == "task.answer"
    assert (
        f"record 2 of a.jsonl has the label {label!r}, which is not one of ['pos', 'neg']"
        in caught.value.message
    )


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("red", ["red", "blue"]), ("blue ", ["red", "blue"])], [0, 1]),
        ([("A", ["red", "blue"]), ("c", ["red", "blue", "green"])], [0, 2]),
        ([("0", ["red", "blue"]), ("1", ["red", "blue"])], [0, 1]),
        ([("1", ARC), ("2", ARC)], [0, 1]),
        ([("red", ARC), ("blue", ARC)], [0, 1]),
        ([("True", [True, False]), ("2", [1, 2])], [0, 1]),
    ],
)
def test_own_options_are_read_in_any_form(rows: list[tuple[str, Any]], expected: list[int]) -> None:
    assert labelled(OWN, questions(*rows))[1] == expected


def test_all_records_are_read_in_one_way() -> None:
    # "1" is an option's text in the first record; only as an index do both make sense.
    rows = [("1", ["3", "2", "1"]), ("1", ["red", "blue"])]
    assert labelled(OWN, questions(*rows))[1] == [1, 1]


def test_label_outside_own_options_names_the_odd_record() -> None:
    rows = [("A", ["red", "blue"]), ("B", ["red", "blue"]), ("C", ["red", "blue"])]
    with pytest.raises(
        InputError, match=r"record 3 of a\.jsonl has the label 'C', which is not one of \['red', 'blue'\]"
    ):
        labelled(OWN, questions(*rows))


@pytest.mark.parametrize("label", ["ß", "9" * 5000, "-1", "1.0"])
def test_odd_labels_are_no_choice(label: str) -> None:
    with pytest.raises(InputError, match="which is not one of"):
        labelled(OWN, questions((label, ["red", "blue"])))


@pytest.mark.parametrize(
    "value", ["red, blue", None, 3, ["red"], ["red", None], [["a"], ["b"]], {"text": "red"}, {"label": ["A"]}]
)
def test_options_that_are_no_list_of_texts(value: Any) -> None:
    with pytest.raises(InputError, match="opts of record 1 must be a list of at least 2 texts") as caught:
        options_of({"opts": value}, "opts", "record 1")
    assert caught.value.field == "task.choices"


def test_options_absent_or_unevenly_labelled() -> None:
    with pytest.raises(InputError, match="record 1 has no field 'opts'; it has q, a"):
        options_of({"q": 1, "a": 2}, "opts", "record 1")
    with pytest.raises(InputError, match="needs one label for each text"):
        options_of({"opts": {"text": ["a", "b"], "label": ["A"]}}, "opts", "record 1")


def test_choices_that_the_model_cannot_tell_apart() -> None:
    (question,) = questions(("pos", None))
    options = Options(("positive", "negative"))
    check_tokens([(1, 2), (1, 3)], options, question, FIXED)
    with pytest.raises(
        InputError, match=r"'positive' and 'negative' of record 1 of a\.jsonl are the same"
    ) as caught:
        check_tokens([(1, 2), (1, 2)], options, question, FIXED)
    assert caught.value.field == "task.choices"
    with pytest.raises(
        InputError, match=r"choice 'negative' of record 1 of a\.jsonl has no tokens"
    ) as caught:
        check_tokens([(1, 2), ()], options, question, OWN)
    assert caught.value.field == "task.choices"


def test_a_choice_that_another_begins_with_always_wins_so_fixed_ones_need_an_end() -> None:
    (question,) = questions(("pos", None))
    options = Options(("1", "10"))
    with pytest.raises(InputError, match=r"choice '10' begins with all tokens of '1'.*'1\.' and '10\.'"):
        check_tokens([(1,), (1, 2)], options, question, FIXED)
    check_tokens([(1,), (1, 2)], options, question, OWN)


def test_a_choice_that_another_begins_with_is_found_wherever_the_two_stand() -> None:
    (question,) = questions(("pos", None))
    options = Options(("10", "2", "1"))
    with pytest.raises(InputError, match=r"choice '10' begins with all tokens of '1'"):
        check_tokens([(1, 2), (3,), (1,)], options, question, FIXED)
