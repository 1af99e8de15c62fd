"""Curve of the best loss, in one line."""

import pytest

from ranksieve.api.cli.output.sparkline import WIDTH, BestLoss, sparkline


@pytest.mark.parametrize(
    ("values", "bars"), [([1.0, 0.5, 0.0], "█▅▁"), ([2.0, 2.0], "▁▁"), ([0.0, 7.0, 1.0], "▁█▂")]
)
def test_bars_go_from_the_least_to_the_largest(values, bars):
    assert sparkline(values) == bars


def test_the_curve_falls_and_starts_anew_at_another_size():
    best = BestLoss()
    for loss in (0.9, None, 0.5, 0.7):
        best.add({"target_share": 0.4, "loss_nats": loss})
    assert best.line() == "0.9000 █▁▁ 0.5000 nats"
    best.add({"target_share": 0.3, "loss_nats": 0.8})
    assert best.line() == ""
    for number in range(2 * WIDTH):
        best.add({"target_share": 0.3, "loss_nats": 0.8 - number / 1000})
    assert len(best.line().split()[1]) == WIDTH
