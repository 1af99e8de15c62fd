"""Segments of a search."""

from ranksieve.api.plots.segments import Segments


def test_each_size_has_a_curve_that_only_falls_and_goes_on_when_it_is_tried_again():
    segments = Segments()
    rows = [(0.4, 0.9, False), (0.4, 0.95, True), (0.3, None, False), (0.3, 2.0, False), (0.4, None, False)]
    for generation, (target, loss, accepted) in enumerate(rows):
        segments.add(
            {"generation": generation, "target_share": target, "loss_nats": loss, "accepted": accepted}
        )

    assert [(one.target_share, one.first, one.last, one.held) for one in segments.all] == [
        (0.4, 0, 1, True), (0.3, 2, 3, False), (0.4, 4, 4, False),
    ]  # fmt: skip
    assert [(one.generations, one.losses) for one in segments.all] == [
        ([0, 1], [0.9, 0.9]), ([3], [2.0]), ([4], [0.9]),
    ]  # fmt: skip
