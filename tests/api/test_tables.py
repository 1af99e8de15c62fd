"""The tables that commands end with."""

from io import StringIO

from rich.console import Console

from api.tables import jobs_table, result_table, values_table


def text(table):
    console = Console(file=StringIO(), width=140)
    console.print(table)
    return [
        " ".join(line.replace("│", " ").replace("┃", " ").split())
        for line in console.file.getvalue().splitlines()
    ]


def test_dense_and_sieved_side_by_side(result):
    lines = text(result_table(result))

    assert "block parameters 1,000 400 40.0% kept" in lines
    assert "total parameters 1,500 900 60.0% kept" in lines
    assert "file size, MB 6.0 3.6 60.0% kept" in lines
    assert "accuracy, confirm 0.785 0.780 drop +0.50 [-0.60, +1.60]" in lines
    assert "accuracy, test 0.788 [0.762, 0.812] 0.781 [0.755, 0.806] drop +0.70 [-0.50, +1.90]" in lines
    assert "tokens/s 500 1,100 2.20x" in lines
    assert "objective met on the confirm split; drops in points; in brackets 95 % intervals" in lines


def test_a_promise_that_was_not_held_is_said(result):
    result["promise_held"] = False

    assert "objective NOT met on the confirm split; drops in points; in brackets 95 % intervals" in text(
        result_table(result)
    )


def test_jobs(client, done):
    lines = text(jobs_table(client.jobs()))

    assert any(line.startswith(f"{done['id']} snippets succeeded 20") for line in lines)


def test_values_by_dotted_names():
    lines = text(values_table({"metric": {"test": 0.5}, "tokens": 1234, "held": True, "name": "x"}))

    assert lines[1:-1] == ["metric.test 0.5000", "tokens 1,234", "held True", "name x"]
