"""Hostile job files: numbers without bounds, paths that lead elsewhere, links, hub names that are none."""

import math
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from pydantic import ValidationError
from tuning import tune

from ranksieve.search.errors import InputError
from ranksieve.service.job.changes import JobChanges
from ranksieve.service.pipeline import plans
from ranksieve.service.spec import LONGEST_LABEL, JobSpec, TargetBytes
from ranksieve.workers.model.sources import resolve

Document = dict[str, Any]

HUGE = 10**400
INTEGERS = {
    "seed": (-1, 2**32),
    "priority": (-101, 101),
    "task.max_new_tokens": (0, 4097),
    "task.data.sizes.calibration": (0, 1_000_001),
    "task.data.sizes.search": (0, 1_000_001),
    "task.data.sizes.confirm": (0, 1_000_001),
    "task.data.sizes.test": (0, 1_000_001),
    "search.max_evaluations": (0, 10_000_001),
    "resources.actors": (0, 4097),
    "resources.threads_per_actor": (0, 1025),
}
FLOATS = {
    "objective.points": (-0.1, 100.1),
    "objective.confidence": (0.49, 1),
    "resources.gpus_per_actor": (-0.1, 65, 1.5, 5e-324, 1e-9),
}
BAD_NUMBERS = [
    (field, value)
    for field, bounds in {**INTEGERS, **FLOATS}.items()
    for value in (*bounds, HUGE, math.nan, math.inf)
]

PATHS = [
    "..",
    "../outside",
    "../outside/secret.csv",
    "inside/../../outside/secret.csv",
    "./../outside/secret.csv",
    "//etc/passwd",
    "/etc/passwd",
    "/etc/shadow",
    "/proc/self/environ",
    "/proc/self/fd/0",
    "/proc/1/root/etc/passwd",
    "/dev/zero",
    "/dev/stdin",
    "/",
    "~/.ssh/id_rsa",
    "~root/.bashrc",
    "$HOME/.ssh/id_rsa",
    "${HOME}",
    "`id`",
    "$(id)",
    "; cat /etc/passwd",
    "| id",
    "file:///etc/passwd",
    "http://169.254.169.254/latest/meta-data",
    "ftp://evil.example/a.csv",
    "s3://bucket/a.csv",
    "hf://datasets/a/b",
    "zip://a.zip!b.csv",
    "\\\\host\\share\\a.csv",
    "C:\\boot.ini",
    "..\\outside\\secret.csv",
    "%2e%2e/outside/secret.csv",
    "\u2025/outside/secret.csv",
    "films.csv\0.jsonl",
    "\0",
    "films.csv/..",
    "films.csv/../../outside/secret.csv",
    "link.csv",
    "folder/secret.csv",
    "chain.csv",
    "loop",
    "hard/../link.csv",
    "x" * 300,
    "a/" * 3000,
    "*",
    "films*.csv",
    "[f]ilms.csv",
    "-rf",
    "films.csv\n",
    " films.csv",
]
HUB_IDS = [
    "..",
    "../model",
    "/etc",
    "./model",
    "~/model",
    "file:///etc",
    "http://evil.example/model",
    "https://169.254.169.254/a",
    "owner/../model",
    "owner//model",
    "owner/model/..",
    "owner/name/extra",
    "C:\\model",
    "owner/mo del",
    "owner/model\0",
    "owner/model\n",
    "-owner/model",
    "owner/model.git",
    "owner/--model",
    "o" * 100 + "/model",
    "",
]
REVISIONS = [
    "..",
    "../main",
    "../../../../etc/passwd",
    "/etc/passwd",
    "refs/../../x",
    "main\0",
    "main\n",
    "main..other",
    "-main",
    ".hidden",
    "main/",
    "a//b",
    "",
    "~",
    "x" * 201,
    "a b",
    "$(id)",
    "\u2025",
]


def changed(spec: Document, place: str, value: Any) -> Document:
    *above, key = place.split(".")
    inner = spec
    for part in above:
        inner = inner.setdefault(part, {})
    inner[key] = value
    if above == ["objective"]:
        spec["objective"] = {"kind": "max_drop", key: value}
    return spec


@pytest.fixture
def roots(tmp_path: Path) -> plans.Roots:
    """A root with a file, and links out of it to a secret."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "inside", root / "hard", outside):
        folder.mkdir(parents=True)
    (root / "films.csv").write_text("a\n1")
    (outside / "secret.csv").write_text("a\n1")
    (root / "link.csv").symlink_to(outside / "secret.csv")
    (root / "chain.csv").symlink_to(root / "link.csv")
    (root / "folder").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    return plans.Roots(folders=[root])


@pytest.mark.parametrize(
    "size", ["1" * 50_000 + "!", "1" * 400 + " EB", "1" + " " * 50_000 + "!", "1,5 GB", "1.", "x"]
)
def test_what_is_no_size_is_refused_at_once(tiny_job: Document, size: str) -> None:
    tiny_job["objective"] = {"kind": "target_bytes", "size": size}
    with pytest.raises(ValidationError, match="expected one number and its unit") as caught:
        JobSpec.model_validate(tune(tiny_job))
    assert len(caught.value.errors()[0]["msg"]) < 200


@pytest.mark.parametrize(
    ("size", "size_bytes"), [("120 MB", 120_000_000), (" 1.5GiB ", 3 << 29), (".5 kB", 500), ("7", 7)]
)
def test_a_size_has_a_unit(tiny_job: Document, size: str, size_bytes: int) -> None:
    tiny_job["objective"] = {"kind": "target_bytes", "size": size}
    objective = JobSpec.model_validate(tune(tiny_job)).objective
    assert isinstance(objective, TargetBytes)
    assert objective.size == size_bytes


def test_labels_are_no_longer_than_can_be_looked_for(tiny_job: Document) -> None:
    longest = {"n" * LONGEST_LABEL: "v" * LONGEST_LABEL}
    assert JobSpec.model_validate(tune(tiny_job) | {"labels": longest}).labels == longest
    for labels in ({"n" * (LONGEST_LABEL + 1): "v"}, {"n": "v" * (LONGEST_LABEL + 1)}):
        with pytest.raises(ValidationError, match="must have names and values of at most 200 char"):
            JobSpec.model_validate(tune(tiny_job) | {"labels": labels})
        with pytest.raises(ValidationError, match="must have names and values of at most 200 char"):
            JobChanges(labels=labels)


@pytest.mark.parametrize(("field", "value"), BAD_NUMBERS)
def test_every_number_has_bounds(tiny_job: Document, field: str, value: float) -> None:
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate(changed(tune(tiny_job), field, value))
    assert field.rpartition(".")[2] in str(caught.value.errors()[0]["loc"])


@pytest.mark.parametrize("split", ["search", "confirm", "test"])
def test_a_split_that_judges_has_a_few_records(tiny_job: Document, split: str) -> None:
    tiny_job["task"]["data"]["sizes"][split] = 7
    with pytest.raises(ValidationError, match=rf"sizes\.{split} must be at least 8; got 7"):
        JobSpec.model_validate(tune(tiny_job))


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_out_of_the_roots(roots: plans.Roots, path: str) -> None:
    with pytest.raises(InputError) as caught:
        plans.resolve_path(path, roots, "task.data.source.path")
    assert caught.value.field == "task.data.source.path"


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "additional_chat_templates/default.jinja",
    ],
)
@pytest.mark.parametrize("way", ["straight", "by a link", "into nowhere"])
def test_no_file_of_a_model_is_a_link_out_of_the_roots(roots: plans.Roots, name: str, way: str) -> None:
    targets = {
        "straight": roots.folders[0].parent / "outside" / "secret.csv",
        "by a link": roots.folders[0] / "chain.csv",
        "into nowhere": Path("/nowhere/at/all"),
    }
    (roots.folders[0] / "inside" / name).parent.mkdir(exist_ok=True)
    (roots.folders[0] / "inside" / name).symlink_to(targets[way])
    with pytest.raises(InputError, match=f"contains {Path(name).name}, a link"):
        plans.resolve_path("inside", roots, "model.path")


def test_links_inside_a_root_are_how_the_hub_keeps_models(roots: plans.Roots) -> None:
    (roots.folders[0] / "inside" / "config.json").symlink_to(roots.folders[0] / "films.csv")
    assert plans.resolve_path("inside", roots, "model.path") == roots.folders[0] / "inside"


@pytest.mark.parametrize("revision", REVISIONS)
def test_no_revision_is_a_path(tiny_job: Document, revision: str) -> None:
    tiny_job["model"] = {"hub": "owner/model", "revision": revision}
    with pytest.raises(ValidationError):
        JobSpec.model_validate(tune(tiny_job))


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/pr/3", "feature/a-b", "0a1b2c3d", "1.0_rc"])
def test_a_revision_is_what_git_calls_one(tiny_job: Document, revision: str) -> None:
    tiny_job["model"] = {"hub": "owner/model", "revision": revision}
    assert JobSpec.model_validate(tune(tiny_job)).model.revision == revision


@pytest.mark.parametrize("hub", HUB_IDS)
def test_no_hub_id_is_anything_else(tiny_job: Document, hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a path of this machine nor an address: refused before a request is made."""

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a request was made")

    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", never)
    tiny_job["model"] = {"hub": hub}
    with pytest.raises(InputError, match=r"model\.hub"):
        resolve(plans.model_source(JobSpec.model_validate(tune(tiny_job)), []))
