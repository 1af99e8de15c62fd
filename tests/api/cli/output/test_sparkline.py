"""Curve of the best loss, in one line."""

import pytest

from ranksieve.api.cli.output.sparkline import WIDTH, best_line, sparkline
from ranksieve.api.plots.segments import Segments


@pytest.mark.parametrize(
    ("values", "bars"), [([1.0, 0.5, 0.0], "█▅▁"), ([2.0, 2.0], "▁▁"), ([0.0, 7.0, 1.0], "▁█▂")]
)
def test_bars_go_from_the_least_to_the_largest(values, bars):
    assert sparkline(values) == bars


def test_the_curve_is_that_of_the_size_being_tried():
    segments = Segments()

    def add(share, *losses):
        for loss in losses:
            segments.add({"generation": 0, "target_share": share, "loss_nats": loss, "accepted": False})

    assert best_line(segments) == ""
    add(0.4, 0.9, None, 0.5, 0.7)
    assert best_line(segments) == "0.9000 ██▁▁ 0.5000 nats"
    add(0.3, 0.8)
    assert best_line(segments) == ""
    add(0.3, *(0.8 - number / 1000 for number in range(2 * WIDTH)))
    assert len(best_line(segments).split()[1]) == WIDTH
