"""`ranksieve compare` with a fake behind it."""

import json

import pytest
from typer.testing import CliRunner

from ranksieve.api.cli import main
from ranksieve.api.cli.deps import Parts

RIVAL = {
    "kind": "dense",
    "name": "dense",
    "settings": {},
    "file_bytes": 269_000_000,
    "tokens_per_second": 1000.0,
    "speedup": 1.0,
    "seconds": 0.0,
    "metric": 0.8,
    "interval": [0.78, 0.82],
    "drop_points": [0.0, 0.0, 0.0],
}
SMALL = {
    "kind": "tfidf",
    "name": "TF-IDF, logistic regression",
    "file_bytes": 2_000_000,
    "speedup": 40.0,
    "metric": 0.79,
    "drop_points": [1.0, -0.5, 2.5],
}
VALUES = {
    "metric_name": "accuracy",
    "examples": 1500,
    "reference": "dense",
    "points": 3.0,
    "enough": "TF-IDF, logistic regression",
    "rivals": [RIVAL, RIVAL | SMALL],
    "skipped": [{"kind": "lora", "reason": "it diverged"}],
}


@pytest.fixture
def compare(tmp_path, monkeypatch, spec_file):
    """Runs the command; returns its result and the names of the rivals that were asked for."""
    monkeypatch.chdir(tmp_path)
    asked = []

    def fake(settings, spec, rivals, report):
        asked.extend(rivals)
        report("tfidf (1 of 1)")
        return VALUES

    def run(*arguments):
        command = ["compare", str(spec_file), *map(str, arguments)]
        return CliRunner().invoke(main.app, command, obj=Parts(compare=fake)), asked

    return run


def test_the_table_begins_with_the_smallest(compare):
    result, asked = compare()
    assert result.exit_code == 0
    assert asked == []
    small, dense = (result.stdout.index(name) for name in ("TF-IDF, logistic", "dense  "))
    assert small < dense
    assert "+1.0 [-0.5, +2.5]" in result.stdout
    assert "the smallest that loses at most 3 points (95 %): TF-IDF, logistic regression" in result.stdout
    assert "left out: lora, it diverged" in result.stdout
    assert result.stderr == "tfidf (1 of 1)\n"


def test_json_is_alone_on_stdout(compare):
    result, asked = compare("--json", "--rival", "tfidf", "--rival", "probe")
    assert json.loads(result.stdout) == VALUES
    assert asked == ["tfidf", "probe"]


@pytest.mark.parametrize(("name", "start"), [("chart.svg", b"<?xml"), ("chart.png", b"\x89PNG")])
def test_a_chart_is_written(compare, tmp_path, name, start):
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    result, _ = compare("-o", name)
    assert result.exit_code == 0
    assert (tmp_path / name).read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("name", "message"),
    [("chart.gif", "ends in .svg, .png or .pdf"), ("nowhere/chart.svg", "no such folder")],
)
def test_a_chart_that_cannot_be_written_is_refused_first(compare, name, message):
    result, asked = compare("-o", name, "--rival", "tfidf")
    assert result.exit_code == 2
    assert message in result.stderr
    assert asked == []
