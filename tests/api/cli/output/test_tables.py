"""The tables that commands end with."""

import math
from datetime import datetime
from io import StringIO

import pytest
import yaml
from rich.console import Console

from ranksieve.api.cli.output.results import finalists_table, result_table
from ranksieve.api.cli.output.tables import (
    cache_table,
    estimate_table,
    jobs_table,
    models_table,
    values_table,
    webhooks_table,
)
from ranksieve.workers.cache.folders import Entry


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


def test_finalists_and_which_was_exported(result):
    lines = text(finalists_table(result))

    assert "50.0% 0.790 -0.50 [-1.60, +0.60]" in lines
    assert "40.0% 0.780 +0.50 [-0.60, +1.60] exported" in lines


def test_what_an_lm_loses_is_percent_of_perplexity(result):
    result["metric_name"] = "perplexity"
    for side in ("dense", "best"):
        result[side]["interval"]["test"] = None

    lines = text(result_table(result))

    assert "perplexity, test 0.788 0.781 drop +0.70 [-0.50, +1.90]" in lines
    assert "drops in % of perplexity; in brackets 95 % intervals" in " ".join(lines)
    assert "kept perplexity drop, % of perplexity" in text(finalists_table(result))


def test_finalists_tell_the_risk_by_which_they_passed(result):
    for one, risk in zip(result["finalists"], (0.00123, 0.25), strict=True):
        one |= {"risk": risk, "passed": risk < 0.2}

    lines = text(finalists_table(result))

    assert "kept accuracy drop, points risk passed" in lines
    assert "50.0% 0.790 -0.50 [-1.60, +0.60] 0.00123 yes" in lines
    assert "40.0% 0.780 +0.50 [-0.60, +1.60] 0.25 no exported" in lines


def test_an_export_says_what_it_was_measured_on(result):
    result["export"] = {"measured_on": ["search"]}
    result["promise_held"] = None
    for side in ("dense", "best"):
        result[side]["metric"] = {"search": 0.79}
        result[side].pop("interval")

    lines = text(result_table(result))

    assert "accuracy, search 0.790 0.790" in lines
    assert not any("test 0" in line or "confirm" in line for line in lines)
    said = "the candidate was chosen on the search split, which flatters it; the test split was not touched"
    assert said in " ".join(lines)


def test_a_promise_that_was_not_held_is_said(result):
    result["promise_held"] = False

    result["notes"] = ["8 records are few"]

    lines = text(result_table(result))

    assert "objective NOT met on the confirm split; drops in points; in brackets 95 % intervals" in lines
    assert "note: 8 records are few" in lines


def test_what_was_left_out_is_said(result):
    result["best"]["left_out_params"] = 1024
    result["notes"] = ["8 records are few"]

    lines = " ".join(text(result_table(result)))

    assert (
        "1,024 parameters that the search counted are left out: their sublayers have no output any more"
        in lines
    )
    assert "few" not in lines  # the promise is held


@pytest.mark.parametrize("kind", ["target_bytes", "target_latency", "target_params"])
def test_a_size_or_a_time_is_not_promised_by_records(result, kind):
    result["objective"] = {"kind": kind, "share": 0.4}

    assert "objective met; drops in points; in brackets 95 % intervals" in text(result_table(result))


def test_jobs(client, done):
    lines = text(jobs_table(client.jobs()))

    assert any(line.startswith(f"{done['id']} snippets succeeded 20") for line in lines)


def test_jobs_say_what_will_become_of_them(done):
    running = {**done, "state": "searching", "finished_at": None}

    def state(**marks):
        return text(jobs_table([{**running, **marks}]))[3].split(" snippets ")[1].split(" 20")[0]

    assert state() == "searching"
    assert state(pause_requested=True) == "searching (pausing)"
    assert state(pause_requested=True, cancel_requested=True) == "searching (cancelling)"


def test_what_users_write_is_shown_as_it_is_and_obeyed_by_no_terminal(done):
    def shown(name, message):
        job = {**done, "name": name, "state": "failed", "error": {"message": message}}
        return " ".join(text(jobs_table([job])))

    assert "sweep [baseline] [/x]" in shown("sweep [baseline] [/x]", "no")
    assert "the records have [text, label]" in shown("x", "the records have [text, label]")
    assert "\ufffd]0;owned" in shown("\x1b]0;owned", "no")
    hook = {
        "id": "x",
        "url": "https://[fd00::1]:8443/hook",
        "states": ["failed"],
        "enabled": False,
        "disabled_reason": "[/b]",
        "delivered_at": None,
    }
    assert "https://[fd00::1]:8443/hook failed no: [/b] never" in " ".join(text(webhooks_table([hook])))


def listed(location, **more):
    model = {"model": {"path": "x"}, "location": location, "architecture": None, "weight_bytes": 269_060_552}
    return {"models": [{**model, **more}], "complete": True}


def test_models_as_a_job_file_takes_them():
    lines = text(models_table(listed("/srv/tiny", architecture="LlamaForCausalLM")))

    assert "{path: /srv/tiny} LlamaForCausalLM 0.27" in lines
    assert not any("there may be more" in line for line in lines)


def test_a_model_whose_place_is_secret_is_told_by_its_name():
    assert "{path: x}" in " ".join(text(models_table(listed(None))))


def test_models_that_were_cut_off_are_called_so():
    lines = text(models_table({"models": [], "complete": False}))

    assert lines[-1] == "cut off: there may be more"


@pytest.mark.parametrize(
    "path", ["/a b", "/[red]", "/a\nb", "/\x1b[31m", "/\u202e", "/\x9b1m", "/é 😀", "/a: #b", "/'"]
)
def test_no_name_of_a_model_writes_to_the_terminal_itself(path):
    [cell] = models_table(listed(path)).columns[0].cells
    shown = str(cell)

    assert shown.isprintable()
    assert yaml.safe_load(f"model: {shown}") == {"model": {"path": path}}
    assert shown in "\n".join(text(models_table(listed(path))))


def test_cache_entries():
    used = datetime(2026, 11, 25, 14, 54)
    entry = Entry(key="model-1", size_bytes=3 * 2**29, last_use_ns=int(used.timestamp()) * 10**9)

    lines = text(cache_table([entry, entry], limit_bytes=math.inf))

    assert lines.count("model-1 1.50 2026-11-25 14:54") == 2
    assert lines[-1] == "3.00 GiB, limit inf GiB"


def test_an_estimate_names_its_units_and_what_it_rests_on(estimate):
    lines = text(estimate_table(estimate))

    assert "tokens TFLOP host, GB GPU, GB disk, GB time" in lines
    assert "prepare 2,000,000 3.2 2.5 0.0 0.7 45 s to 3.3 min" in lines
    assert "total 2,000,000 3.2 2.5 0.0 0.7 45 s to 3.3 min" in lines
    assert "this machine's processor, 2 threads, bfloat16: 0.25 TFLOP/s, timed now" in lines
    assert any(line.startswith("search: at most 400 scorings") for line in lines)
    assert "calibration: 3 passes" in lines
    assert "note: needs 20.0 GB of memory" in lines


def test_long_times_are_hours_and_days(estimate):
    estimate["machine"]["measured"] = False
    estimate["total"] |= {"seconds_low": 7200.0, "seconds_high": 259_200.0}

    lines = text(estimate_table(estimate))

    assert any(line.endswith("2.0 h to 3.0 d") for line in lines)
    assert any(line.endswith("from its data sheet") for line in lines)


def test_values_by_dotted_names():
    lines = text(values_table({"metric": {"test": 0.5}, "tokens": 1234, "held": True, "name": "x"}))

    assert lines[1:-1] == ["metric.test 0.5000", "tokens 1,234", "held True", "name x"]


def test_a_latency_beside_what_was_expected(result):
    result["latency"] = {
        "workload": {"kind": "prefill", "rows": 24, "length": 32},
        "measured_dense_ms": 1000.0,
        "measured_ms": 590.0,
        "measured_share": 0.59,
        "expected_share": 0.575,
    }

    assert "prefill of 24 x 32, ms 1,000.0 590.0 59.0%, 57.5% expected" in text(result_table(result))


def test_a_job_that_has_ended_says_no_more_of_what_was_asked_of_it(done):
    ended = {**done, "state": "cancelled", "cancel_requested": True, "pause_requested": True}

    assert " cancelled 20" in text(jobs_table([ended]))[3]


@pytest.mark.parametrize(
    ("epochs", "said"), [(0, None), (1, "trained for 1 epoch"), (2, "trained for 2 epochs")]
)
def test_that_the_factors_were_trained_is_said_where_they_were(result, epochs, said):
    result["train_epochs"] = epochs

    shown = " ".join(text(result_table(result)))

    assert ("were trained" in shown) == (said is not None)
    assert said is None or said in shown


@pytest.mark.parametrize(
    ("blocks", "test", "said"),
    [
        ([12, 30], 0.8, "its first 12 of 30 blocks, tuned on the calibration split"),
        ([30, 30], 0.8, "all its blocks, tuned on the calibration split"),
        (None, 0.8, "one number added to each answer"),
        (None, 0.788, "none helps it"),
    ],
)
def test_the_model_that_drops_are_measured_from_is_named_with_its_metric(result, blocks, test, said):
    result["reference"] |= {"tuned": blocks is not None, "blocks": blocks}
    result["reference"]["metric"] = {**result["dense"]["metric"], "test": test}

    lines = text(result_table(result))

    assert said in " ".join(lines)
    assert any("same help" in line and "0.800" in line for line in lines) == (test == 0.8)


def test_an_export_that_was_confirmed_is_not_called_flattered(result):
    result["export"] = {"measured_on": ["search", "confirm"]}

    shown = " ".join(text(result_table(result)))

    assert "measured on search and confirm; the test split was not touched" in shown
    assert "flatters" not in shown
