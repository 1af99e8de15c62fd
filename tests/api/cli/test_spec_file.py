"""Job files on disk."""

import json

import pytest
from documents import JOB_TEXT

from ranksieve.api.cli.spec_file import load_spec
from ranksieve.api.spec_errors import SpecError
from ranksieve.search.errors import InputError

QUOTE = "expected text; put quotes around it, YAML reads true, false, numbers and dates as such"
REST = """
model: {path: m}
task: {kind: lm, answer: a, data: {source: {path: a.jsonl}}}
"""


def test_yaml_and_json_are_the_same(tmp_path, spec):
    (tmp_path / "job.json").write_text(json.dumps(spec))
    (tmp_path / "job.yaml").write_text(
        f"""{JOB_TEXT}\
    sizes: {{calibration: 256, search: 256, confirm: 512, test: 1000}}
resources: {{actors: 2, gpus_per_actor: 0}}
"""
    )

    assert load_spec(tmp_path / "job.yaml") == load_spec(tmp_path / "job.json")


def test_local_paths_count_from_the_file(tmp_path, spec):
    spec["model"] = {"path": "models/tiny.gguf", "adapter": "adapter"}
    spec["task"]["data"]["source"]["path"] = "../reviews.jsonl"
    spec["task"]["data"]["files"] = {"test": {"path": "test.csv"}, "search": {"hub": {"id": "imdb"}}}
    (tmp_path / "job.yaml").write_text(json.dumps(spec))

    loaded = load_spec(tmp_path / "job.yaml")

    assert loaded.model.path == f"{tmp_path}/models/tiny.gguf"
    assert loaded.model.adapter == f"{tmp_path}/adapter"
    assert loaded.task.data.source.path == f"{tmp_path}/../reviews.jsonl"
    assert loaded.task.data.files["test"].path == f"{tmp_path}/test.csv"
    assert loaded.task.data.files["search"].path is None


@pytest.mark.parametrize(
    ("model", "location"),
    [("./tiny", "/tiny"), ("../tiny", "/../tiny"), ("a/tiny.gguf", "/a/tiny.gguf")],
)
def test_a_path_in_place_of_the_model_counts_from_the_file(tmp_path, spec, model, location):
    (tmp_path / "job.yaml").write_text(json.dumps({**spec, "model": model}))

    assert load_spec(tmp_path / "job.yaml").model.path == f"{tmp_path}{location}"


def test_every_wrong_field_is_reported(tmp_path, spec):
    spec["search"] = {"max_evaluations": 0}
    spec["resources"]["actors"] = 0
    (tmp_path / "job.yaml").write_text(json.dumps(spec))

    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "job.yaml")

    assert [error["field"] for error in caught.value.errors] == ["search.max_evaluations", "resources.actors"]


@pytest.mark.parametrize(
    ("content", "errors"),
    [
        ("", ["1:1: expected a mapping of fields; got None"]),
        (
            "model: {path: m}\ntask:\n  kind: choise\n  answer: 1\nsearch:\n  - 1\n",
            [
                "3:3: task.kind: Input should be 'choice', 'generate' or 'lm'; got 'choise'",
                f"4:3: task.answer: {QUOTE}; got 1",
                "2:1: task.data: this field is required",
                "5:1: search: expected a mapping of fields; got a list",
            ],
        ),
        (
            'search: {"seeds": [{path: a}, {path: 3}]}',
            [
                "1:1: model: this field is required",
                "1:1: task: this field is required",
                f"1:32: search.seeds.1.path: {QUOTE}; got 3",
            ],
        ),
        ("labels:\n  a/b~c: 1\n" + REST, [f"2:3: labels.a/b~c: {QUOTE}; got 1"]),
        (
            "resources: &s {actors: 0}\n" + REST,
            ["1:16: resources.actors: Input should be greater than or equal to 1; got 0"],
        ),
    ],
)
def test_every_field_is_told_with_its_line(tmp_path, content, errors):
    path = tmp_path / "job.yaml"
    path.write_text(content)

    with pytest.raises(SpecError) as caught:
        load_spec(path)

    assert str(caught.value) == "; ".join(f"{path}:{error}" for error in errors)


def test_what_is_no_yaml_is_told_with_its_line(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text("a: 1\nb: *b")

    with pytest.raises(SpecError) as caught:
        load_spec(path)

    detail = "aliases (*) are not supported; repeat the value"
    assert caught.value.errors == [{"field": "spec", "detail": detail, "where": f"{path}:2:4"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: \x00", r"job\.yaml: not valid YAML or JSON: unacceptable character #x0000"),
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
    spec["search"] = {"seeds": [{"path": "seed.json"}, {"ranks": [3]}]}
    (tmp_path / "job.yaml").write_text(json.dumps(spec))

    first, second = load_spec(tmp_path / "job.yaml").search.seeds

    assert (first.path, second.path) == (f"{tmp_path}/seed.json", None)


@pytest.fixture
def elsewhere(tmp_path, spec):
    """A job file whose data, a model's file and a seed are, by themselves or by links, in other folders."""
    job, other = tmp_path / "job", tmp_path / "other"
    for folder in (job / "model", other / "blobs"):
        folder.mkdir(parents=True)
    for name in ("blobs/weights", "reviews.jsonl", "seed.json"):
        (other / name).write_text("")
    (job / "model" / "model.safetensors").symlink_to(other / "blobs" / "weights")
    (job / "seed.json").symlink_to(other / "seed.json")
    spec["model"] = {"path": "model"}
    spec["task"]["data"] = {
        "source": {"path": "../other/reviews.jsonl"},
        "files": {"test": {"path": "no.csv"}},
    }
    spec["search"] = {"seeds": [{"ranks": [3]}, {"path": "seed.json"}]}
    (job / "job.yaml").write_text(json.dumps(spec, indent=1))
    return job / "job.yaml"


def test_files_outside_are_told_with_the_folders_that_may_be_read_and_how_to_allow_more(elsewhere, tmp_path):
    with pytest.raises(SpecError) as caught:
        load_spec(elsewhere, [elsewhere.parent, tmp_path / "here"])

    found = {error["field"]: error for error in caught.value.errors}
    other = tmp_path / "other"
    assert list(found) == ["model.path", "task.data.source.path", "search.seeds.1.path"]
    assert found["task.data.source.path"]["detail"] == (
        f"'{other}/reviews.jsonl' is outside the folders that this command may read: those of the job file and of "
        f"--data-dir, the current one and every --root ({tmp_path}/job, {tmp_path}/here); allow it with --root {other}"
    )
    assert found["model.path"]["detail"].endswith(f"allow it with --root {other}/blobs")
    assert found["search.seeds.1.path"]["detail"].endswith(f"allow it with --root {other}")
    lines = elsewhere.read_text().splitlines()
    line = int(found["task.data.source.path"]["where"].split(":")[1])
    assert '"path": "../other/reviews.jsonl"' in lines[line - 1]


def test_files_outside_are_left_to_a_server_and_to_more_roots(elsewhere, tmp_path):
    assert load_spec(elsewhere) == load_spec(elsewhere, [tmp_path])


def test_the_home_of_nobody_is_named(tmp_path, spec):
    spec["model"] = {"path": "~nobody-of-this-name/model"}
    (tmp_path / "job.yaml").write_text(json.dumps(spec))

    with pytest.raises(InputError, match="cannot expand the path '~nobody-of-this-name/model'"):
        load_spec(tmp_path / "job.yaml")


def test_single_fields_are_set(ranksieve, spec_file, http):
    changes = (
        "objective={kind: max_drop}",
        "objective.points=0.5",
        "search.max_evaluations=30",
        "name=two words",
        "effort=quick",
    )
    done = ranksieve("submit", spec_file, *(part for change in changes for part in ("--set", change)))

    assert done.exit_code == 0, done.stderr
    spec = http.get(f"/v1/jobs/{done.stdout.strip()}").json()["spec"]
    assert spec["objective"]["points"] == 0.5
    assert (spec["search"]["max_evaluations"], spec["name"], spec["effort"]) == (30, "two words", "quick")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("objective.points", "--set: expected FIELD=VALUE, e.g. objective.points=1; got 'objective.points'"),
        (
            "objective..points=1",
            "--set: expected FIELD=VALUE, e.g. objective.points=1; got 'objective..points=1'",
        ),
        ("seed.x=1", "seed.x: --set cannot set a field of seed, which is no mapping of fields"),
        ("objective.points=[1", "objective.points: --set has a value that is no YAML: "),
        ("objective.points=abc", "--set: objective.points: Input should be a valid number"),
        ("objective={kind: max_drop, points: -1}", "--set: objective.points: Input should be greater than"),
        ("objective.point=1", "--set: objective.point: unknown field; did you mean points?"),
    ],
)
def test_a_field_that_cannot_be_set_is_named(ranksieve, spec_file, spec, change, told):
    spec_file.write_text(json.dumps({**spec, "seed": 1, "objective": {"kind": "max_drop"}}))
    for command in ("run", "submit", "estimate"):
        done = ranksieve(command, spec_file, "--set", change)

        assert (done.exit_code, done.stdout) == (2, "")
        assert done.stderr.startswith(told), done.stderr
