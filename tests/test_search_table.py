"""The benchmark of searches computes what it says, and goes on where it was stopped."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ranksieve.search.evolution.finalists import LARGEST
from ranksieve.search.evolution.outcome import Outcome
from ranksieve.search.space.matrix import MatrixShape
from ranksieve.search.space.space import SearchSpace

Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def table() -> ModuleType:
    import search_table

    return search_table


@pytest.fixture
def run(table: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Makes a table of one seed of a tiny synthetic task; returns all rows that its file has then."""

    def make(file: Path, *options: str) -> list[dict[str, Any]]:
        argv = [
            "search_table.py",
            "--synthetic",
            "--layers",
            "1",
            "--seeds",
            "0",
            "--json",
            str(file),
            *options,
        ]
        monkeypatch.setattr(sys, "argv", argv)
        table.main()
        rows: list[dict[str, Any]] = json.loads(file.read_text())
        return rows

    return make


def outcome(examples: int, loss: float, genome: tuple[int, ...] = (0,), drop: float = 0.0) -> Outcome:
    return Outcome(
        genome=genome, examples=examples, kl_nats=loss, drop_points=drop, metric=0.5, tokens=10 * examples
    )


def test_a_trace_counts_all_tokens_and_only_full_evaluations_improve_it(table: ModuleType) -> None:
    outcomes = [outcome(8, 0.5), outcome(2, 0.1), outcome(8, 0.6), outcome(8, 0.3)]
    assert table.trace(outcomes, 8) == [(80, 0.5), (260, 0.3)]


def test_tokens_to_a_loss(table: ModuleType) -> None:
    steps = [(80, 0.5), (260, 0.3)]
    assert [table.spent_until(steps, loss) for loss in (0.6, 0.5, 0.4, 0.2)] == [80, 80, 260, None]


def test_stored_rows_are_printed_without_a_run(
    table: ModuleType, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def stored(seed: int, budget: int, loss: float) -> dict[str, Any]:
        row = {"method": "lagrangian", "objective": "share", "amount": 0.3, "seed": seed, "budget": budget}
        row |= {"examples": 8, "kl_weight": 0.5, "evaluations": 1.0}
        row |= dict.fromkeys(("search_loss", "search_kl", "confirm_loss", "confirm_kl"), loss)
        return {**row, "gain": [0.0] * 3, "drop": [0.0] * 3, "trace": [], "tokens": 1}

    file = tmp_path / "rows.json"
    rows = [
        stored(1, 40, 0.25),
        stored(0, 50, 0.125),
        stored(0, 40, 0.75),
        {**stored(2, 40, 1), "examples": 9},
    ]
    file.write_text(json.dumps(rows))

    assert run(file, "--stored", "--shares", ".3", "--drops", "--examples", "8") == rows
    assert "| 0.1250 / 0.2500 |" in capsys.readouterr().out


def test_times_fewer_compares_with_where_the_papers_search_got_its_last_improvement(
    table: ModuleType,
) -> None:
    papers = {0: {"trace": [(100, 0.5), (4000, 0.3)]}, 1: {"trace": [(2000, 0.4)]}}
    rows = [
        {"seed": 0, "trace": [(100, 0.35), (200, 0.3)]},
        {"seed": 1, "trace": [(100, 0.2)]},
    ]
    assert list(table._reached(rows, papers)) == ["150", "20.0"]
    rows[1]["trace"] = [(100, 0.5)]
    assert list(table._reached(rows, papers)) == ["never", ""]
    assert list(table._reached(rows, {})) == ["", ""]


def test_intervals_of_independent_seeds_add_up(table: ModuleType) -> None:
    assert table.pooled([(1.0, 0.0, 3.0)]) == (1.0, 0.0, 3.0)
    assert table.pooled([(1.0, -2.0, 5.0), (3.0, -1.0, 6.0)]) == (2.0, -0.5, 4.5)


def test_only_ever_smaller_models_are_accepted(table: ModuleType) -> None:
    shape = MatrixShape(name="m", out_features=8, in_features=8, layer=0, kind="m")
    space = SearchSpace([shape], 1)
    outcomes = [outcome(8, 0.1, (level,), drop) for level, drop in ((3, 0.5), (2, 2.0), (4, 0.1), (1, 1.0))]
    accepted = table.accepted_in(space, outcomes, 1.0)
    assert [entry.genome for entry in accepted] == [(3,), (1,)]


@pytest.mark.campaign
def test_a_stopped_table_goes_on_without_running_a_row_again(
    table: ModuleType,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [
        "--shares",
        "0.3",
        "--drops",
        "5",
        "--budget",
        "2",
        "--budget-of",
        "ranksieve:4",
        "--methods",
    ]
    file = tmp_path / "rows.json"

    run(file, *options, "lagrangian")
    measured = table._row
    monkeypatch.setattr(
        table, "_row", lambda arguments, arena, key: {**measured(arguments, arena, key), "second": True}
    )
    rows = run(file, *options, "lagrangian", "ranksieve")
    assert [(row["method"], row["objective"], row.get("second")) for row in rows] == [
        ("lagrangian", "share", None),
        ("lagrangian", "drop", None),
        ("ranksieve", "share", True),
        ("ranksieve", "drop", True),
    ]
    alone, searched = rows[0], rows[2]
    assert alone["gain"] == [0.0, 0.0, 0.0]
    assert 4 <= searched["evaluations"] < 5
    assert searched["search_loss"] <= alone["search_loss"]
    assert max(alone["kept"], searched["kept"]) <= 0.3
    assert "| `ranksieve` | 4 |" in capsys.readouterr().out
    with pytest.raises(
        SystemExit, match="its row of lagrangian has another patience, layers; give another file"
    ):
        run(file, "--layers", "2", "--patience", "8", *options, "lagrangian")


@pytest.mark.campaign
def test_the_outside_search_is_a_function_of_its_seed(run: Run, tmp_path: Path) -> None:
    rows = []
    for name in ("first", "second"):
        options = ("--shares", "0.3", "--drops", "--budget", "12", "--methods", "cma-es")
        (row,) = run(tmp_path / f"{name}.json", *options)
        rows.append({name: value for name, value in row.items() if not name.endswith("_s")})
    assert rows[0] == rows[1]
    assert rows[0]["evaluations"] >= 12


@pytest.mark.campaign
def test_where_nothing_was_accepted_the_safest_seed_is_confirmed(run: Run, tmp_path: Path) -> None:
    options = ("--shares", "--drops", "0", "--budget", "1", "--methods", "uniform")
    [row] = run(tmp_path / "rows.json", *options)
    assert row["search_kept"] == 1.0
    assert row["kept"] in (1.0, pytest.approx(LARGEST, abs=0.01))
