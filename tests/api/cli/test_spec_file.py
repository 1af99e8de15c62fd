"""Job files on disk."""

import json

import pytest

from ranksieve.api.cli.spec_file import SpecError, load_spec, read_document, resolve_paths
from ranksieve.search.errors import InputError


def test_yaml_and_json_are_the_same(tmp_path, spec):
    (tmp_path / "job.json").write_text(json.dumps(spec))
    (tmp_path / "job.yaml").write_text(
        """
name: snippets
model: {path: /models/tiny}
task:
  kind: choice
  prompt: "Review: {{ text }}\\nSentiment:"
  answer: "{{ label }}"
  choices: [negative, positive]
  data: {source: {path: /data/reviews.jsonl}}
"""
    )

    assert load_spec(tmp_path / "job.yaml") == load_spec(tmp_path / "job.json")


def test_local_paths_count_from_the_file(tmp_path, spec):
    spec["model"] = {"gguf": "models/tiny.gguf"}
    spec["task"]["data"]["source"]["path"] = "../reviews.jsonl"
    spec["task"]["data"]["files"] = {"test": {"path": "test.csv"}, "search": {"hub": {"id": "imdb"}}}
    (tmp_path / "job.yaml").write_text(json.dumps(spec))

    loaded = load_spec(tmp_path / "job.yaml")

    assert loaded.model.gguf == f"{tmp_path}/models/tiny.gguf"
    assert loaded.task.data.source.path == f"{tmp_path}/../reviews.jsonl"
    assert loaded.task.data.files["test"].path == f"{tmp_path}/test.csv"
    assert loaded.task.data.files["search"].path is None


@pytest.mark.parametrize(
    "document", [None, 3, [], {"model": 1}, {"model": {"path": None}}, {"task": {"data": {"files": 3}}}]
)
def test_what_is_no_spec_is_left_to_validation(tmp_path, document):
    assert resolve_paths(document, tmp_path) == document


def test_resolving_leaves_the_document_alone(tmp_path):
    document = {"model": {"path": "tiny"}}

    assert resolve_paths(document, tmp_path)["model"]["path"] == str(tmp_path / "tiny")
    assert document == {"model": {"path": "tiny"}}


def test_every_wrong_field_is_reported(tmp_path, spec):
    spec["search"] = {"population": 0, "offspring": 0}
    (tmp_path / "job.yaml").write_text(json.dumps(spec))

    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "job.yaml")

    assert [error["field"] for error in caught.value.errors] == ["search.population", "search.offspring"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "not valid YAML"),
        (b"a: 2024-99-99", "not valid YAML"),
        (b"!!python/object/apply:os.system ['true']", "not valid YAML"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (None, "cannot read"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, content, message):
    path = tmp_path / "job.yaml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(InputError, match=message) as caught:
        load_spec(path)

    assert caught.value.field == "spec"
    assert "\n" not in caught.value.message


def test_paths_of_seeds_count_from_the_file_too(tmp_path, spec):
    spec["search"] = {"seeds": [{"path": "seed.json"}, {"random": 3}]}
    (tmp_path / "job.yaml").write_text(json.dumps(spec))

    first, second = load_spec(tmp_path / "job.yaml").search.seeds

    assert (first.path, second.path) == (f"{tmp_path}/seed.json", None)


def test_the_home_of_nobody_is_named(tmp_path, spec):
    spec["model"] = {"path": "~nobody-of-this-name/model"}
    (tmp_path / "job.yaml").write_text(json.dumps(spec))

    with pytest.raises(InputError, match="cannot tell what '~nobody-of-this-name/model' means"):
        load_spec(tmp_path / "job.yaml")


@pytest.mark.parametrize(
    ("content", "repeated"),
    [
        (
            "search: {seed: 1}\nmodel: {path: m}\nsearch: {overlap: 3}\n",
            "search is given in line 1 and again in line 3",
        ),
        ("a:\n  - b: 1\n    'b': 2\n", "b is given in line 2 and again in line 3"),
        ('{"model": {"path": "a",\n"path": "b"}}', "path is given in line 1 and again in line 2"),
        ("base: &b {x: 1}\nb:\n  <<: *b\n  x: 2\n  x: 2\n", "x is given in line 4 and again in line 5"),
    ],
)
def test_a_key_that_is_given_twice_is_refused_with_its_lines(tmp_path, content, repeated):
    path = tmp_path / "job.yaml"
    path.write_text(content)

    with pytest.raises(InputError) as caught:
        read_document(path)

    assert caught.value.message == f"{path}: {repeated}; keep one, with all that belongs there"


def test_a_key_may_be_given_again_beside_those_of_a_merged_mapping(tmp_path):
    (tmp_path / "job.yaml").write_text("a: &a {x: 1, y: 1}\nb:\n  <<: *a\n  x: 2\n")

    document = read_document(tmp_path / "job.yaml")

    assert document == {"a": {"x": 1, "y": 1}, "b": {"x": 2, "y": 1}}


def test_what_is_nested_without_end_is_told(tmp_path):
    (tmp_path / "job.yaml").write_text("[" * 3000 + "]" * 3000)

    with pytest.raises(InputError, match=r"job\.yaml has a part that is nested too deeply, or in itself"):
        load_spec(tmp_path / "job.yaml")


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))


@pytest.mark.parametrize("text", ["&all [*all]", BOMB + "model: *a11\n", BOMB + "task: {data: *a11}\n"])
def test_what_refers_to_itself_over_and_over_is_told_at_once(tmp_path, text):
    (tmp_path / "job.yaml").write_text(text)

    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "job.yaml")

    assert "expected a mapping of fields; got a list" in " ".join(e["detail"] for e in caught.value.errors)
