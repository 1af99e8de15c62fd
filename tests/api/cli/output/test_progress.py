"""What a person sees of a followed job."""

from io import StringIO

import pytest
from rich.console import Console
from rich.live import Live

from ranksieve.api.cli.output.progress import LiveView, Narrator, PlainView, progress_view

AT = "2026-01-01T00:00:{:02d}Z"
STORY = [
    ("job.state", {"state": "queued"}),
    ("job.state", {"state": "validating", "resumed": True}),
    ("data.loaded", {"splits": {"search": 8, "test": 9}, "dropped_duplicates": 2, "notes": ["few"]}),
    (
        "model.loaded",
        {"matrices": 210, "block_params": 1000, "total_params": 1500, "dtype": "float32", "device": "cpu"},
    ),
    ("phase.progress", {"phase": "calibration", "done": 1, "total": 2}),
    ("phase.progress", {"phase": "calibration", "done": 2, "total": 2}),
    ("dense.scored", {"split": "search", "metric": 0.79, "metric_name": "accuracy"}),
    (
        "generation.completed",
        {
            "generation": 3,
            "target_share": 0.4,
            "loss_nats": 0.05,
            "kept_share": 0.412,
            "kl_nats": 0.0512,
            "drop_points": -0.3,
            "metric": 0.78,
            "evaluations": 48,
            "accepted": True,
        },
    ),
    (
        "job.state",
        {
            "state": "queued",
            "error": {"code": "infrastructure", "message": "Ray is gone"},
            "retry_in_s": 20.0,
        },
    ),
    ("job.changed", {"priority": 3, "labels": {}}),
    ("candidate.failed", {"generation": 3, "reason": "not finite"}),
    ("actor.replaced", {"actor": 1, "reason": "died"}),
    ("cluster.notice", {"reason": "other jobs hold all nodes"}),
    ("candidate.failed", {"generation": None, "reason": "not finite"}),
    (
        "finalist.confirmed",
        {"kept_share": 0.41, "drop_points": 0.5, "drop_low": -0.4, "drop_high": 1.4},
    ),
    ("artifact.exported", {"path": "/jobs/[1]", "file_bytes": 3_600_000}),
    ("artifact.verified", {"metric": 0.781, "expected": 0.781}),
    ("job.state", {"state": "failed", "error": {"code": "input", "message": "gone", "field": "model.path"}}),
]
LINES = [
    "job queued",
    "job validating again, to resume where it stopped",
    "data: search 8, test 9; 2 duplicates dropped",
    "note: few",
    "model: 210 matrices, 1,000 of 1,500 parameters in blocks, float32 on cpu",
    "calibrate: done in 1.0 s",
    "dense accuracy on search: 0.7900",
    "generation 3: 48 evaluations, target 40.0%, best kept 41.2%, KL 0.0512 nats, drop -0.30 points",
    "job queued again in 20 s: Ray is gone",
    "job changed: priority, labels",
    "a candidate of generation 3 failed: not finite",
    "actor 1 replaced: died",
    "other jobs hold all nodes",
    "a finalist failed: not finite",
    "finalist keeping 41.0%: drop +0.50 points [-0.40, +1.40]",
    "exported 3.6 MB to /jobs/[1]",
    "loaded back in a fresh process: 0.7810, expected 0.7810",
    "job failed: model.path: gone",
]


def events():
    return [
        {"seq": number, "type": kind, "at": AT.format(number), "data": data}
        for number, (kind, data) in enumerate(STORY, start=1)
    ]


def shown(*, terminal: bool) -> str:
    console = Console(file=StringIO(), force_terminal=terminal, width=60)
    with progress_view(console) as view:
        for event in events():
            view.update(event)
    return console.file.getvalue()


def test_plain_lines_where_there_is_no_terminal():
    assert shown(terminal=False).splitlines() == LINES


def test_bars_and_a_search_line_on_a_terminal():
    output = shown(terminal=True)

    assert "\x1b[" in output
    for line in LINES:
        assert line in output or line.startswith("generation")


@pytest.mark.parametrize("widgets", [True, False])
def test_bars_in_a_notebook_that_has_widgets(widgets, monkeypatch):
    monkeypatch.setattr("ranksieve.api.cli.output.progress.find_spec", lambda name: widgets or None)
    for method in ("start", "stop"):  # they would want a real notebook
        monkeypatch.setattr(Live, method, lambda self, refresh=False: None)

    with progress_view(Console(file=StringIO(), force_jupyter=True)) as view:
        assert isinstance(view, LiveView if widgets else PlainView)


def progress(phase, at, done, total):
    data = {"phase": phase, "done": done, "total": total}
    return {"type": "phase.progress", "at": AT.format(at), "data": data}


def state(at, state):
    return {"type": "job.state", "at": AT.format(at), "data": {"state": state}}


def test_a_search_that_is_stopped_began_before_that():
    narrator = Narrator()
    run = [progress("search", 1, 0, 2), state(5, "stopping"), progress("search", 7, 2, 2)]

    assert [narrator.line(event) for event in run][-1] == "search: done in 6.0 s"


def test_a_run_that_is_over_leaves_no_bar():
    console = Console(file=StringIO(), force_terminal=True, width=80)
    view = LiveView(console)
    view.update(progress("calibration", 1, 1, 2))
    [generation] = [event for event in events() if event["type"] == "generation.completed"]
    view.update(generation)
    with console.capture() as before:
        console.print(view.live.get_renderable())
    view.update(state(2, "paused"))
    with console.capture() as after:
        console.print(view.live.get_renderable())

    assert "calibrate" in before.get()
    assert "generation 3" in before.get()
    assert after.get().strip() == ""


def test_what_an_lm_loses_is_percent_of_perplexity():
    narrator = Narrator()
    scored = {"split": "search", "metric": 12.5, "metric_name": "perplexity"}
    narrator.line({"type": "dense.scored", "at": AT.format(1), "data": scored})

    lines = [
        narrator.line(one)
        for one in events()
        if one["type"] in ("generation.completed", "finalist.confirmed")
    ]

    assert [line.rpartition("drop ")[2] for line in lines] == [
        "-0.30 % of perplexity",
        "+0.50 % of perplexity [-0.40, +1.40]",
    ]


def test_an_event_of_a_newer_server_is_passed_over():
    assert Narrator().line({"seq": 1, "type": "moon.full", "at": AT.format(1), "data": {}}) is None


def test_a_phase_is_told_once_unless_it_starts_again():
    narrator = Narrator()
    steps = [(0, 2), (2, 2), (2, 2), (1, 2), (2, 2)]

    lines = [
        narrator.line(
            {"type": "phase.progress", "at": AT.format(at), "data": {"phase": "test", "done": d, "total": t}}
        )
        for at, (d, t) in enumerate(steps)
    ]

    assert lines == [None, "test: done in 1.0 s", None, None, "test: done in 1.0 s"]


@pytest.mark.parametrize("field", ["kl_nats", "drop_points", "kept_share", "target_share"])
def test_a_generation_without_a_number_yet(field):
    [event] = [event for event in events() if event["type"] == "generation.completed"]
    event["data"] = {**event["data"], field: None}

    assert "–" in Narrator().line(event)  # noqa: RUF001


def test_a_bar_moves_with_its_phase_and_goes_with_it():
    console = Console(file=StringIO(), force_terminal=True, width=80)
    view = LiveView(console)

    def bars():
        with console.capture() as shown:
            console.print(view.live.get_renderable())
        return shown.get()

    for done in (1, 2):
        view.update(progress("calibration", done, done, 3))
        assert f"{done}/3" in bars()
    view.update(progress("calibration", 3, 3, 3))
    assert "calibrate" not in bars()


def test_a_curve_of_the_best_loss_and_no_bar_of_the_state_before():
    console = Console(file=StringIO(), force_terminal=True, width=120)
    view = LiveView(console)
    view.update(progress("search", 1, 1, 9))
    [generation] = [event for event in events() if event["type"] == "generation.completed"]
    for loss in (0.5, 0.25):
        view.update({**generation, "data": {**generation["data"], "loss_nats": loss}})
    view.update(state(2, "finalizing"))

    with console.capture() as shown:
        console.print(view.live.get_renderable())

    assert "0.5000 █▁ 0.2500 nats" in shown.get()
    assert "1/9" not in shown.get()


@pytest.mark.parametrize("over", ["paused", "crashed", "failed"])
def test_what_comes_between_two_runs_is_no_part_of_a_phase(over):
    narrator = Narrator()
    run = [progress("calibration", 1, 0, 2), state(2, over), progress("calibration", 41, 1, 2)]
    run += [progress("calibration", 43, 2, 2)]

    assert [narrator.line(event) for event in run][-1] == "calibrate: done in 2.0 s"
