"""What is no job file's text, and where."""

import pytest

from ranksieve.api.spec_text import MalformedError, SpecText


@pytest.mark.parametrize(
    ("text", "place", "detail"),
    [
        ("a: [", (1, 5), "while parsing a flow node expected the node content, but found '<stream end>'"),
        ("a: 1\nb: 2024-99-99", (2, 4), "month must be in 1..12"),
        (
            "!!python/object/apply:os.system ['true']",
            (1, 1),
            "could not determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.system'",
        ),
        ("a: 1\n---\nb: 2", (2, 1), "expected a single document in the stream but found another document"),
        ("a: 1\nb: {}\na: 2", (3, 1), 'while constructing a mapping found duplicate key "a"'),
        ('{"a": {"b": "x",\n"b": "y"}}', (2, 1), 'while constructing a mapping found duplicate key "b"'),
        ("a: 1\nb:\n  <<: {x: 1}\n", (3, 3), "<< is not supported; repeat the fields"),
        ("a: *b", (1, 4), "aliases (*) are not supported; repeat the value"),
        ("&a [*a]", (1, 5), "aliases (*) are not supported; repeat the value"),
        ("a: &a [x, x]\nb: [*a, *a]\n", (2, 5), "aliases (*) are not supported; repeat the value"),
        ("[" * 500, None, "a part of it is nested too deeply"),
        ("[" * 500 + "]" * 500, None, "a part of it is nested too deeply"),
        ("a: \x00", None, "not valid YAML or JSON: unacceptable character #x0000"),
        ("? [[a]]\n: 1", None, "not valid YAML or JSON: unhashable type"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_place(text, place, detail):
    with pytest.raises(MalformedError) as caught:
        SpecText(text)

    assert (caught.value.place, caught.value.field) == (place, "spec")
    assert caught.value.message.startswith(detail)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "written",
    ["{{ label }}", "{{ label | lower }}", "{{ label }} it is", "Label: {{ label }}", "[{{ label }}]"],
)
def test_a_template_without_quotes_is_told_to_be_quoted(written):
    with pytest.raises(MalformedError, match=r'quote the template, e\.g\. answer: "{{ label }}"') as caught:
        SpecText(f"task:\n  answer: {written}\n  prompt: a\n")

    assert caught.value.place.line == 2


def test_words_of_yaml_1_1_are_text():
    assert SpecText("[no, yes]").value == ["no", "yes"]
