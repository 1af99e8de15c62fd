"""What could be used instead of a job's model, beside it on the page and in a report."""

import json
import re

import pytest
from browsing import finished, saved, section
from playwright.sync_api import expect
from typer.testing import CliRunner

from ranksieve.api.cli import main

DENSE = {
    "kind": "dense",
    "name": "dense",
    "file_bytes": 6_000_000,
    "tokens_per_second": 500.0,
    "speedup": 1.0,
    "metric": 0.788,
    "interval": [0.762, 0.812],
}
SMALL = {"kind": "tfidf", "name": "<b>TF-IDF</b>", "file_bytes": 20_000, "speedup": 40.0, "metric": 0.79}
RIVALS = {
    "metric_name": "accuracy",
    "examples": 1500,
    "reference": "dense",
    "points": 1.0,
    "enough": "<b>TF-IDF</b>",
    "rivals": [DENSE, DENSE | SMALL],
    "data": {"test": "d3"},
}


@pytest.fixture
def job(server, pipeline, scored):
    """A job whose model has met the test records of the rivals."""
    _, client = server
    pipeline.result["data"] = {"task": "d1", "test": "d3"}
    return finished(client, scored)


def seen(page):
    rivals = section(page, "Beside its rivals")
    expect(rivals.locator("tbody tr")).to_have_text(
        [
            re.compile(r"^<b>TF-IDF</b>20\.0 kB0\.790 \[0\.762, 0\.812\]40\.00×$"),
            re.compile(r"^this job's model3\.6 MB0\.781 \[0\.755, 0\.806\]2\.20×$"),
            re.compile(r"^dense6\.0 MB"),
        ]
    )
    expect(rivals).to_contain_text(
        "The smallest rival that loses at most 1 point to dense (95 %): <b>TF-IDF</b>."
    )
    expect(rivals.get_by_role("img").get_by_text("this job's model").first).to_be_visible()
    assert page.locator("main b").filter(has_text="TF-IDF").count() == 0


def test_rivals_are_read_from_a_file(page, server, job, tmp_path):
    url, _ = server
    page.goto(f"{url}/#/jobs/{job}")
    choice = section(page, "Beside its rivals").get_by_label("ranksieve compare")

    def choose(name, values):
        (tmp_path / name).write_text(json.dumps(values))
        choice.set_input_files(tmp_path / name)

    said = page.get_by_role("alert")
    choose("empty.json", {})
    expect(said).to_contain_text("not what ranksieve compare")
    choose("others.json", {**RIVALS, "data": {"test": "x"}})
    expect(said).to_contain_text("other test records")
    choose("rivals.json", RIVALS)

    seen(page)
    numbers = saved(page, "Size against metric beside rivals as CSV")[1].decode().splitlines()
    assert numbers[1] == "tfidf,<b>TF-IDF</b>,20000,0.79,0.762,0.812,500,40"


def test_rivals_in_a_report(page, server, job, tmp_path):
    url, _ = server
    report, file = tmp_path / "report.html", tmp_path / "rivals.json"
    command = ["report", job, "-o", str(report), "--url", url, "--rivals", str(file)]
    for wrong in ("no JSON", "[]"):
        file.write_text(wrong)
        assert CliRunner().invoke(main.app, command).exit_code == 2
    file.write_text(json.dumps(RIVALS))

    assert CliRunner().invoke(main.app, command).exit_code == 0

    page.goto(report.as_uri())
    seen(page)
