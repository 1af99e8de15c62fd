import json
import os
from pathlib import Path
from typing import Any

import pytest

from ranksieve.service.pipeline import model_listing, plans
from ranksieve.service.pipeline.model_listing import Listing, LocalModel, local_models
from ranksieve.service.server.settings import DATABASE, Settings
from ranksieve.service.spec import ModelSpec

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    for name in ("data", "first", "second", "outside"):
        (tmp_path / name).mkdir()
    return Settings(data_dir=tmp_path / "data", roots=[tmp_path / "first", tmp_path / "second"])


@pytest.fixture
def first(settings: Settings) -> Path:
    return settings.roots[0]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    return tmp_path / "outside"


def saved(folder: Path, config: Any = CONFIG, weights: bytes = b"12345") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_bytes(config if isinstance(config, bytes) else json.dumps(config).encode())
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def packed(file: Path, content: bytes = b"GGUF...") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def names(listing: Listing) -> list[str]:
    return [name for model in listing.models for name in model.model.values()]


def listed(settings: Settings) -> list[str]:
    """The names of a complete listing."""
    listing = local_models(settings)
    assert listing.complete
    return names(listing)


def test_folders_and_gguf_files_with_what_a_job_calls_them(settings: Settings, first: Path) -> None:
    saved(first / "org" / "tiny")
    (first / "org" / "tiny" / "model-2.safetensors").write_bytes(b"678")
    packed(first / "small.gguf")

    assert local_models(settings) == Listing(
        models=[
            LocalModel(
                model={"path": "org/tiny"},
                location=f"{first}/org/tiny",
                architecture="LlamaForCausalLM",
                weight_bytes=8,
            ),
            LocalModel(
                model={"path": "small.gguf"},
                location=f"{first}/small.gguf",
                architecture=None,
                weight_bytes=7,
            ),
        ],
        complete=True,
    )


def test_what_is_listed_is_what_a_job_finds(settings: Settings, first: Path) -> None:
    """Also where another root or a link has the same name first; the data directory has no say."""
    for root in (*settings.roots, settings.data_dir):
        saved(root / "same")
    saved(settings.roots[1] / "shadowed")
    (first / "shadowed").symlink_to(settings.roots[1] / "same")
    saved(first)
    packed(first / "same" / "inner" / "a.gguf")

    found = local_models(settings).models

    assert {item for model in found for item in model.model.items()} == {
        ("path", "."),
        ("path", "same"),
        ("path", "same/inner/a.gguf"),
        ("path", str(settings.roots[1] / "same")),
        ("path", str(settings.roots[1] / "shadowed")),
    }
    roots = plans.allowed_roots(settings)
    for model in found:
        spec = ModelSpec.model_validate(model.model)
        for path in (spec.path, model.location):
            assert path is not None
            assert plans.resolve_path(path, roots, "model") == Path(model.location)


def test_the_data_directory_is_not_listed_wherever_it_is(tmp_path: Path) -> None:
    root = tmp_path / "root"
    saved(root / ".ranksieve" / "jobs" / "1" / "artifacts")
    packed(root / ".ranksieve" / "private.gguf")
    saved(root / "open")
    (root / "link.gguf").symlink_to(root / ".ranksieve" / "private.gguf")
    data_dir = root / ".ranksieve"

    assert listed(Settings(data_dir=data_dir, roots=[root])) == ["open"]
    assert listed(Settings(data_dir=data_dir, roots=[data_dir, data_dir / "jobs"])) == []


def test_the_data_directory_of_another_server_is_not_listed(settings: Settings, first: Path) -> None:
    saved(first / "open")
    saved(first / "theirs" / "cache" / "model-1")
    (first / "theirs" / DATABASE).touch()

    assert listed(settings) == ["open"]


def test_a_root_inside_another_is_listed_once(settings: Settings, first: Path) -> None:
    saved(first / "inner" / "tiny")
    roots = [first, first / "inner", first]

    assert listed(Settings(data_dir=settings.data_dir, roots=roots)) == ["tiny"]


def test_without_roots_or_models_nothing_is_listed(settings: Settings, tmp_path: Path) -> None:
    assert listed(settings) == []
    assert listed(Settings(data_dir=settings.data_dir)) == []
    assert listed(Settings(data_dir=settings.data_dir, roots=[tmp_path / "gone"])) == []


def test_links_out_of_the_roots_are_neither_followed_nor_listed(
    settings: Settings, first: Path, outside: Path
) -> None:
    saved(outside / "tiny")
    packed(outside / "a.gguf")
    (first / "folder").symlink_to(outside)
    (first / "tiny").symlink_to(outside / "tiny")
    (first / "a.gguf").symlink_to(outside / "a.gguf")
    (first / "chain.gguf").symlink_to(first / "a.gguf")
    for name in ("config.json", "model.safetensors"):
        mixed = saved(first / f"with linked {name}")
        (mixed / name).unlink()
        (mixed / name).symlink_to(outside / "tiny" / name)

    assert listed(settings) == []


def test_links_inside_the_roots_are_how_the_hub_keeps_models(settings: Settings, first: Path) -> None:
    blobs = saved(first / "models--a--b" / "blobs")
    (blobs / "config.json").rename(blobs / "0a")
    (blobs / "model.safetensors").rename(blobs / "0b")
    packed(blobs / "0c")
    revision = first / "models--a--b" / "snapshots" / "main"
    revision.mkdir(parents=True)
    for name, blob in {"config.json": "0a", "model.safetensors": "0b", "small.gguf": "0c"}.items():
        (revision / name).symlink_to(f"../../blobs/{blob}")
    (first / "latest").symlink_to(revision)

    assert [(*model.model.values(), model.weight_bytes) for model in local_models(settings).models] == [
        ("models--a--b/snapshots/main", 5),
        ("models--a--b/snapshots/main/small.gguf", 7),
    ]


def test_links_in_a_circle_end(settings: Settings, first: Path) -> None:
    model = saved(first / "a" / "tiny")
    (first / "a" / "up").symlink_to(first)
    (first / "a" / "self").symlink_to(first / "a" / "self")
    (first / "self.gguf").symlink_to(first / "self.gguf")
    (first / "one").symlink_to(first / "two")
    (first / "two").symlink_to(first / "one")

    assert listed(settings) == ["a/tiny"]
    (model / "self.txt").symlink_to(model / "self.txt")
    assert listed(settings) == []


@pytest.mark.as_user
def test_what_the_server_may_not_read_is_passed_over(settings: Settings, first: Path) -> None:
    closed = [saved(first / "closed"), packed(first / "a.gguf")]
    closed += [saved(first / name) / name for name in ("config.json", "model.safetensors")]
    saved(first / "open")
    for path in closed:
        path.chmod(0)
    try:
        assert listed(settings) == ["open"]
    finally:
        for path in closed:
            path.chmod(0o700)


REFUSED: dict[str, Any] = {
    "a list": [],
    "a list of models": [CONFIG],
    "garbage": b"\xff\x00garbage",
    "10 MB of garbage": b"{" * 10_000_000,
    "10 MB of configuration": json.dumps(CONFIG).encode() + b" " * 10_000_000,
    "empty": b"",
    "cut off": b'{"architectures": ["Llama',
    "too deep": b"[" * 1_000_000,
    "code of its own": {**CONFIG, "auto_map": {"AutoModel": "evil.Evil"}},
    "code of its parts": {**CONFIG, "text_config": {"auto_map": {}}},
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_a_job_would_refuse_is_not_listed_and_breaks_nothing(
    settings: Settings, first: Path, name: str
) -> None:
    saved(first / "broken", REFUSED[name])
    saved(first / "sound")

    assert listed(settings) == ["sound"]


def test_other_files_than_models_are_not_listed(settings: Settings, first: Path, outside: Path) -> None:
    pickled = saved(first / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    (saved(first / "no config") / "config.json").unlink()
    packed(first / "zip.gguf", b"PK\x03\x04")
    packed(first / "empty.gguf", b"")
    saved(first / "folder.gguf" / "tiny")
    saved(first / "named like a file.gguf")
    os.mkfifo(first / "pipe.gguf")
    os.mkfifo(saved(first / "with a pipe") / "tokenizer.json")
    (saved(first / "a folder for weights") / "model.safetensors").unlink()
    (first / "a folder for weights" / "model.safetensors").mkdir()

    assert listed(settings) == ["folder.gguf/tiny"]


@pytest.mark.parametrize(
    "named",
    [
        None,
        [],
        {},
        "Llama",
        [["Llama"]],
        [7],
        [""],
        ["a b"],
        ["\x1b[31m"],
        ["\ud800"],
        ["L" * 201],
    ],
)
def test_an_architecture_that_is_no_name_is_not_told(settings: Settings, first: Path, named: Any) -> None:
    saved(first / "tiny", {"architectures": named})

    [model] = local_models(settings).models

    assert model.architecture is None


@pytest.mark.parametrize(
    "name", ["a b", "a\nb", "\x1b[31m", "é", "[red]", "%2e", "~", "-o", "*", "a\\b", "..."]
)
def test_odd_names_are_names(settings: Settings, first: Path, name: str) -> None:
    saved(first / name / name)
    packed(first / f"{name}.gguf")

    assert sorted(listed(settings)) == sorted([f"{name}/{name}", f"{name}.gguf"])


def test_a_name_that_is_no_text_fits_in_no_job_file(settings: Settings, first: Path) -> None:
    saved(Path(os.fsdecode(os.fsencode(first) + b"/\xff")))
    saved(first / "text")

    assert listed(settings) == ["text"]


def test_weights_are_not_read(settings: Settings, first: Path) -> None:
    os.truncate(saved(first / "huge") / "model.safetensors", 10**12)
    os.truncate(packed(first / "huge.gguf"), 10**12)

    assert [model.weight_bytes for model in local_models(settings).models] == [10**12, 10**12]


def test_a_folder_of_many_files_is_passed_over_and_leaves_room_for_others(
    settings: Settings, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_listing, "MOST_IN_FOLDER", 5)
    crowd = saved(first / "a crowd")
    saved(first / "tiny")
    for number in range(3):
        (crowd / f"{number}.txt").write_text("")
    assert listed(settings) == ["a crowd", "tiny"]

    (crowd / "4.txt").write_text("")
    listing = local_models(settings)
    assert (names(listing), listing.complete) == (["tiny"], False)


def test_no_more_files_are_looked_at_than_the_limit(
    settings: Settings, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shallow folders come first, and what is listed does not depend on the order of a folder's files."""
    for number in range(4):
        saved(first / f"{number}")
    packed(first / "3" / "deep" / "a.gguf")
    needed = 4 + 4 * 2 + 1 + 1  # folders; their files; the folder in the last one, and its file

    for most in range(1, needed + 2):
        monkeypatch.setattr(model_listing, "MOST_ENTRIES", most)
        listing = local_models(settings)
        models = ["0", "1", "2", "3", "3/deep/a.gguf"]
        seen = min(3, max(0, (most - 4) // 2)) + (most >= 13) + (most >= needed)
        assert names(listing) == models[:seen]
        assert listing.complete is (most >= needed), most


def test_no_folder_is_too_deep_but_the_limit_says_so(settings: Settings, first: Path) -> None:
    deep = first / Path(*"abcdef")
    saved(deep)
    assert listed(settings) == ["a/b/c/d/e/f"]

    saved(deep / "g")
    listing = local_models(settings)
    assert (names(listing), listing.complete) == (["a/b/c/d/e/f"], False)


def test_no_more_models_are_listed_than_the_limit(
    settings: Settings, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_listing, "MOST_MODELS", 2)
    for name in "ba":
        saved(settings.roots[1] / name)
    assert listed(settings) == ["a", "b"]

    packed(first / "z.gguf")
    listing = local_models(settings)
    assert (names(listing), listing.complete) == (["z.gguf", "a"], False)


def test_models_come_in_the_order_of_their_places(settings: Settings, first: Path) -> None:
    for name in ("b", "a/b", "a", "c/a"):
        saved(first / name)
    packed(first / "a.gguf")
    packed(first / "aa" / "z.gguf")

    assert listed(settings) == ["a", "a.gguf", "a/b", "aa/z.gguf", "b", "c/a"]
