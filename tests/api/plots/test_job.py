"""Panels of a job's figure, from what the API says."""

import pytest
from documents import CANDIDATE, RECORD, RESULT

pytest.importorskip("matplotlib", reason="needs the extra plot")

from ranksieve.api.plots.found import found_by
from ranksieve.api.plots.job import job_figure
from ranksieve.api.plots.segments import Segments

RANKS = {
    "layers": [0, 1, 2],
    "matrices": ["q_proj", "$v_proj"],
    "ranks": [[16, -1], [8, 0], [None, 4]],
    "densities": [[0.5, 1.0], [0.25, 0.0], [None, 0.125]],
}
SPEC = {"task": {"kind": "choice"}, "objective": {"kind": "max_drop", "points": 2.0}}
TUNED = {"tuned": True, "blocks": [15, 30], "metric": {"test": 0.9}}


def candidates():
    """Two seeds, two of generation 1, of which one has no drop, and a failure."""
    rows = [(0, 0.6, 0.1), (0, 0.5, 0.4), (1, 0.45, 0.9), (1, 0.42, None), (1, 0.4, 0.2)]
    found = [
        {**CANDIDATE, "id": number, "generation": generation, "kept_share": kept, "drop_points": drop}
        for number, (generation, kept, drop) in enumerate(rows)
    ]
    found[2]["failure"] = "not finite"
    return found


def drawn(job, rows=(), events=(), records=(), ranks=None, rivals=None):
    segments = Segments()
    for record in records:
        segments.add(RECORD | record)
    job = {"id": "j1", "name": "films", "state": "succeeded", "result": None, "spec": SPEC, **job}
    figure = job_figure(job, found_by(job, rows, events), segments.all, ranks, rivals)
    figure.draw_without_rendering()
    return figure


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_size_against_loss():
    result = {**RESULT, "reference": TUNED}

    [axes] = drawn({"result": result}, candidates()).axes

    seeds, later = axes.collections[:2]
    assert seeds.get_offsets().tolist() == [[50.0, 0.4], [60.0, 0.1]]
    assert later.get_offsets().tolist() == [[40.0, 0.2]]
    assert later.get_facecolor().tolist() != seeds.get_facecolor().tolist()
    finalists = axes.containers[0]
    assert finalists.lines[0].get_xydata().tolist() == [[50.0, -0.5], [40.0, 0.5]]
    assert [end for ends in finalists.lines[2][0].get_segments() for end in ends[:, 1]] == pytest.approx(
        [-1.6, 0.6, -0.6, 1.6]
    )
    [star] = [line for line in axes.lines if line.get_label() == "exported"]
    assert (star.get_xydata().tolist(), star.get_marker()) == ([[40.0, 0.5]], "*")
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "block parameters kept, % (← smaller)",
        "drop, points (↓ better)",
    )
    assert sorted(legend(axes)) == sorted(
        [
            "dense with 50 % of the blocks and the same help: reference of drops",
            "dense as it was given, test split: +11.20 points",
            "promised: at most 2 points",
            "seeds, search split",
            "generation 1, search split; 1 more without a drop",
            "least drop up to this size, search split",
            "finalist on fresh records, with 95 % interval",
            "exported",
        ]
    )


def test_losses_in_nats_before_any_drop_is_known():
    rows = [{**one, "drop_points": None} for one in candidates()[:2]]

    [axes] = drawn({"state": "searching"}, rows).axes

    assert axes.get_ylabel() == "loss, nats (↓ better)"
    assert axes.collections[0].get_offsets().tolist() == [[50.0, 0.04], [60.0, 0.04]]
    assert not any("promised" in text for text in legend(axes))


def test_finalists_of_a_job_that_is_not_done():
    finalist = {"kept_share": 0.5, "drop_points": 0.0, "drop_low": -1.0, "drop_high": 1.0}
    events = [
        ("model.tuned", {"used": True, "blocks": 10, "all_blocks": 40}),
        ("finalist.confirmed", finalist),
        ("job.state", {"state": "validating"}),
        ("finalist.confirmed", {**finalist, "kept_share": 0.3}),
    ]

    [axes] = drawn(
        {"state": "finalizing"}, events=[{"type": type, "data": data} for type, data in events]
    ).axes

    assert axes.containers[0].lines[0].get_xydata().tolist() == [[30.0, 0.0]]
    assert "dense with 25 % of the blocks: reference of drops" in legend(axes)


@pytest.mark.parametrize(("state", "last"), [("searching", "30 %"), ("cancelled", "30 % did not")])
def test_best_so_far_has_a_segment_for_each_size(state, last):
    records = [
        {"generation": 0, "target_share": 0.4, "loss_nats": 0.5, "accepted": False},
        {"generation": 1, "target_share": 0.4, "loss_nats": 0.2, "accepted": True},
        {"generation": 2, "target_share": 0.3, "loss_nats": 0.9, "accepted": False},
    ]

    [axes] = drawn({"state": state}, records=records).axes

    assert [line.get_xydata().tolist() for line in axes.lines] == [
        [[0.0, 0.5], [1.0, 0.2]],
        [[2.0, 0.9]],
    ]
    [top] = axes.child_axes
    assert [text.get_text() for text in top.get_xticklabels()] == ["40 % held", last]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("generation →", "least loss so far, nats (↓ better)")


def test_rank_map():
    axes, bar = drawn({}, ranks=("the exported model", RANKS)).axes

    assert axes.collections[0].get_array().tolist() == [[0.5, 0.25, None], [1.0, 0.0, 0.125]]
    assert [text.get_text() for text in axes.texts] == ["16", "•", "8", "0", "4"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["q_proj", "$v_proj"]
    assert bar.get_ylabel() == "numbers kept, %"


def test_rivals_are_beside_the_model():
    rival = {"kind": "tfidf", "name": "TF-IDF", "file_bytes": 2e6, "metric": 0.79, "interval": None}

    [axes] = drawn({"result": {**RESULT, "finalists": []}}, rivals={"rivals": [rival]}).axes

    points = {one.get_label(): one.lines[0].get_xydata().tolist() for one in axes.containers}
    assert points == {"TF-IDF": [[2.0, 0.79]], "this job's model": [[3.6, 0.781]]}
    assert axes.get_ylabel() == "accuracy, test split (↑ better)"


def test_names_of_any_length_and_kind():
    figure = drawn({"name": f"$\\frac{{x\x1b{'long ' * 100}"}, candidates())

    assert figure.get_suptitle().startswith("$\\frac{x\ufffdlong long")
    assert len(figure.get_suptitle()) <= 160
