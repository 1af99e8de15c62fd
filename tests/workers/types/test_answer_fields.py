import json

import pytest

from ranksieve.workers.types.answer_fields import field_f1, is_object

ORDER = {"buyer": "Ada", "count": 12, "items": ["pump", {"name": "belt", "new": True}]}


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        (ORDER, 1.0),
        ({**ORDER, "items": [{"new": True, "name": "belt"}, "pump"]}, 1.0),
        ({**ORDER, "buyer": " ada", "count": 12.0}, 1.0),
        ({**ORDER, "buyer": "Ben"}, 4 / 5),
        ({**ORDER, "items": ["pump", "pump"]}, 2 * 3 / 9),
        ({**ORDER, "items": ["pump", {"name": "belt", "new": 1}]}, 4 / 5),
        ({"buyer": "Ada"}, 2 / 6),
        ({**ORDER, "when": None}, 10 / 11),
        ({}, 0.0),
        ([ORDER], 0.0),
    ],
)
def test_fields_of_an_answer_count(prediction: object, expected: float) -> None:
    assert field_f1(json.dumps(prediction), [json.dumps(ORDER)]) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["", "Ada", '{"count": NaN}', '{"a": 1', '{"a":' * 100_000, '{"a": 1}.'])
def test_what_is_no_object_has_no_fields(text: str) -> None:
    assert not is_object(text)
    assert field_f1(text, ['{"a": 1}']) == 0.0


def test_the_best_reference_counts_and_text_has_to_be_equal() -> None:
    assert field_f1('{"a": 2}', ['{"a": 1}', '{"a": 2}']) == 1.0
    assert field_f1("None.", ['{"a": 1}', "none"]) == 1.0
    assert field_f1('{"a": {}}', ['{"a": {}}']) == field_f1("{}", ["{}"]) == 1.0
    assert field_f1("{}", []) == 0.0
