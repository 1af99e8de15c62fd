from pathlib import Path
from typing import Any

import pytest
from tuning import tune

from ranksieve.search.errors import InputError
from ranksieve.service.pipeline import plans
from ranksieve.service.pipeline.plans import Roots
from ranksieve.service.server.settings import Settings
from ranksieve.service.spec import JobSpec
from ranksieve.workers.model.checks import check_local
from ranksieve.workers.types.plan import ModelSource

Document = dict[str, Any]


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    for name in ("first", "second", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "first" / "films.jsonl").write_text("{}")
    (tmp_path / "second" / "films.jsonl").write_text("{}")
    (tmp_path / "second" / "only.csv").write_text("a\n1")
    (tmp_path / "outside" / "secret.csv").write_text("a\n1")
    return Roots(folders=[tmp_path / "first", tmp_path / "second"])


def refused(path: str, roots: Roots) -> InputError:
    with pytest.raises(InputError) as caught:
        plans.resolve_path(path, roots, "model.path")
    assert caught.value.field == "model.path"
    return caught.value


def test_the_first_root_that_has_it_wins(roots: Roots) -> None:
    assert plans.resolve_path("films.jsonl", roots, "x") == roots.folders[0] / "films.jsonl"
    assert plans.resolve_path("only.csv", roots, "x") == roots.folders[1] / "only.csv"
    assert plans.resolve_path(str(roots.folders[1] / "only.csv"), roots, "x") == roots.folders[1] / "only.csv"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("../outside/secret.csv", "is outside the folders"),
        ("{outside}/secret.csv", "is outside the folders"),
        ("{outside}/gone.csv", "is outside the folders"),
        ("../outside/gone.csv", "is outside the folders"),
        ("link.csv", "is a link to a place outside the folders"),
        ("{root}/link.csv", "is a link to a place outside the folders"),
        ("folder/secret.csv", "is a link to a place outside the folders"),
    ],
)
def test_what_lies_outside_is_refused_whatever_the_way(roots: Roots, path: str, expected: str) -> None:
    outside = roots.folders[0].parent / "outside"
    (roots.folders[0] / "link.csv").symlink_to(outside / "secret.csv")
    (roots.folders[0] / "folder").symlink_to(outside)
    assert expected in refused(path.format(outside=outside, root=roots.folders[0]), roots).message


def test_a_link_inside_may_lead_inside(roots: Roots) -> None:
    (roots.folders[0] / "link.csv").symlink_to(roots.folders[1] / "only.csv")
    assert plans.resolve_path("link.csv", roots, "x") == roots.folders[1] / "only.csv"


def test_a_folder_whose_name_only_starts_like_a_root_is_outside(roots: Roots) -> None:
    lookalike = roots.folders[0].with_name("first-too")
    lookalike.mkdir()
    assert "outside the folders" in refused(str(lookalike), roots).message


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.csv", "no such file"),
        ("a\0b", "NUL"),
        ("loop", "no such file|cannot read"),
        ("x" * 5000, "cannot|no such"),
    ],
    ids=["gone", "nul", "loop", "too long"],
)
def test_what_cannot_be_read_is_refused(roots: Roots, path: str, message: str) -> None:
    (roots.folders[0] / "loop").symlink_to(roots.folders[0] / "loop")
    assert any(words in refused(path, roots).message for words in message.split("|"))


def test_a_folder_with_a_circle_of_links_is_refused(roots: Roots) -> None:
    """By its path, or where Python resolves such links to themselves, by its files."""
    folder = roots.folders[0] / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").symlink_to(folder / "model.safetensors")

    def load() -> None:
        location = plans.resolve_path("model", roots, "model.path")
        check_local(ModelSource(kind="path", location=str(location)))

    with pytest.raises(InputError, match=r"^model\.path: "):
        load()


@pytest.mark.as_user
def test_a_folder_that_may_not_be_read_is_refused(roots: Roots) -> None:
    (roots.folders[0] / "closed").mkdir(mode=0)
    assert "cannot read 'closed'" in refused("closed", roots).message


@pytest.mark.parametrize("holder", [".", "other"], ids=["root around it", "root elsewhere"])
@pytest.mark.parametrize("form", ["{path}", "{holder}/{path}", "link/{path}", "{path}/../../../film.csv"])
def test_the_data_directory_is_answered_like_what_does_not_exist(
    tmp_path: Path, holder: str, form: str
) -> None:
    settings = Settings(data_dir=tmp_path / "data", roots=[tmp_path / holder])
    (tmp_path / "data" / "jobs" / "7").mkdir(parents=True)
    settings.roots[0].mkdir(exist_ok=True)
    (settings.roots[0] / "film.csv").touch()
    (settings.roots[0] / "link").symlink_to(tmp_path)
    roots = plans.allowed_roots(settings)

    def answer(path: str) -> str:
        try:
            return str(plans.resolve_path(form.format(path=path, holder=tmp_path), roots, "model.path"))
        except InputError as error:
            return error.message.replace(path, "…")

    assert answer("data/jobs/7") == answer("data/jobs/8")
    if holder == "." and not form.endswith("film.csv"):
        assert answer("data/jobs/7") == answer("gone")


def test_a_model_may_hold_no_link_into_the_data_directory(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").symlink_to(tmp_path / "data" / "config.json")
    roots = plans.allowed_roots(Settings(data_dir=tmp_path / "data", roots=[tmp_path]))
    assert "a link that leads out" in refused("model", roots).message


def test_a_root_in_the_data_directory_is_meant(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    roots = plans.allowed_roots(Settings(data_dir=tmp_path, roots=[tmp_path.parent, tmp_path]))
    assert plans.resolve_path("jobs", roots, "x") == tmp_path / "jobs"


def test_a_list_of_choices_is_its_own_text(tiny_job: Document) -> None:
    task = plans.task_plan(JobSpec.model_validate(tune(tiny_job)))
    assert task.choices == {"good": "good", "bad": "bad"}
    tiny_job["task"]["choices"] = {"good": "a fine one", "bad": "a poor one"}
    assert plans.task_plan(JobSpec.model_validate(tune(tiny_job))).choices == tiny_job["task"]["choices"]


@pytest.mark.parametrize(
    ("model", "kind", "location"),
    [
        ({"hub": "owner/name", "revision": "abc"}, "hub", "owner/name"),
        ({"path": "films.jsonl"}, "path", "{root}/films.jsonl"),
        ({"path": "films.gguf"}, "gguf", "{root}/films.gguf"),
    ],
)
def test_each_source_of_a_model(
    tiny_job: Document, roots: Roots, model: Document, kind: str, location: str
) -> None:
    (roots.folders[0] / "films.gguf").touch()
    tiny_job["model"] = {**model, "dtype": "float16", "exclude": ["k_proj"]}
    source = plans.model_source(JobSpec.model_validate(tune(tiny_job)), roots)
    assert (source.kind, source.location) == (kind, location.format(root=roots.folders[0]))
    assert (source.revision, source.dtype) == (model.get("revision"), "float16")
    assert (source.include, source.exclude) == (("*",), ("k_proj",))


def test_data_of_every_kind(tiny_job: Document, roots: Roots) -> None:
    tiny_job["task"]["data"] |= {
        "source": {"hub": {"id": "owner/set", "config": "en", "split": "validation"}},
        "files": {"test": {"path": "only.csv"}},
    }
    tiny_job["seed"] = 7
    data = plans.data_plan(JobSpec.model_validate(tune(tiny_job)), roots)
    assert data.source is not None
    assert (data.source.field, data.source.hub_id) == ("task.data.source", "owner/set")
    assert (data.source.config, data.source.split) == ("en", "validation")
    assert (data.files["test"].field, data.files["test"].path) == (
        "task.data.files.test",
        roots.folders[1] / "only.csv",
    )
    assert (data.sizes, data.seed) == ({"calibration": 8, "search": 16, "confirm": 32, "test": 64}, 7)


def test_a_missing_file_of_a_split_names_its_field(tiny_job: Document, roots: Roots) -> None:
    tiny_job["task"]["data"]["files"] = {"test": {"path": "gone.csv"}}
    with pytest.raises(InputError) as caught:
        plans.data_plan(JobSpec.model_validate(tune(tiny_job)), roots)
    assert caught.value.field == "task.data.files.test.path"


def test_sizes_may_be_left_open(tiny_job: Document, roots: Roots) -> None:
    tiny_job["task"]["data"] |= {"source": {"path": "films.jsonl"}, "sizes": {"test": 64}}
    assert plans.data_plan(JobSpec.model_validate(tune(tiny_job)), roots).sizes == {"test": 64}
