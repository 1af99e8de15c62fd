"""Modules of the page without a job: what events say, and numbers as text."""

import re


def test_stale_parts_by_event(page, server):
    url, _ = server
    page.goto(url)
    events = [
        {"type": "generation.completed", "data": {"generation": 0}},
        {"type": "job.state", "data": {"state": "paused"}},
        {"type": "phase.progress", "data": {"done": 1, "total": 2}},
    ]
    stale = page.evaluate(
        """async (events) => {
            const { History } = await import("/page/history.js");
            return events.map((event) => new History().add([event]));
        }""",
        events,
    )
    assert stale == [
        {"job": True, "search": True},
        {"job": True, "search": False},
        {"job": False, "search": False},
    ]


def test_best_so_far_has_a_falling_curve_for_each_size(page, server):
    url, _ = server
    page.goto(url)
    numbers = [
        (0.3, 0.05, True),
        (0.2, 0.09, False),
        (0.2, 0.07, False),
        (0.2, 0.08, True),
        (0.15, 0.2, False),
    ]
    records = [
        {"generation": number, "target_share": target, "loss_nats": loss, "accepted": accepted}
        for number, (target, loss, accepted) in enumerate(numbers)
    ]
    drawn = page.evaluate(
        """async (records) => {
            const { BestChart } = await import("/page/charts/best.js");
            const job = { spec: { objective: { kind: "max_drop" } } };
            const best = new BestChart(new AbortController().signal, job);
            const curves = ({ element }) => [...element.querySelectorAll("path[d*='H'][stroke*='series']")];
            return [false, true].map((isOver) => {
                best.draw(records, isOver);
                return [best.chart.place.ariaLabel, curves(best.chart).map((path) => path.getAttribute("d"))];
            });
        }""",
        records,
    )
    words = (
        "Best so far at the size being tried. 30 % held: generation 0; 20 % held: generations 1 to 3; 15 %"
    )
    assert [said for said, _ in drawn] == [f"{words}: generation 4", f"{words} did not: generation 4"]
    [curve] = drawn[0][1]  # the other sizes have a point each
    start, *steps = [float(height) for height in re.findall(r"(?<=[ V])[\d.]+", curve)]
    assert start < steps[0] == steps[1]  # lower on the page, and there it stays


def test_ticks_are_exact(page, server):
    url, _ = server
    page.goto(url)
    ranges = {
        "[0, 1], 5": ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"],
        "[-0.3, 0.3], 3": ["-0.2", "0.0", "0.2"],
        "[0, 3], 10, 1": ["0", "1", "2", "3"],
        "[0.0173, 0.0241], 5": ["0.018", "0.020", "0.022", "0.024"],
        "[950, 5100], 4": ["2000", "4000"],
    }
    calls = ", ".join(f"ticks({arguments})" for arguments in ranges)
    shown = page.evaluate(f"import('/page/charts/scales.js').then(({{ ticks }}) => [{calls}])")
    assert [[text for _, text in found] for found in shown] == list(ranges.values())


def test_stages_of_an_export(page, server):
    url, _ = server
    page.goto(url)
    shown = page.evaluate(
        """async () => {
            const { stages } = await import("/page/headline.js");
            const job = { state: "preparing", parent: "0a" };
            const list = stages(job, { phase: "fetch", done: 90, total: 270 });
            return [...list.children].map((item) => item.textContent);
        }"""
    )
    assert shown == ["queued ✓", "validating ✓", "preparing fetch  33 %, 90 of 270 MB", "finalizing"]


FORMATS = {
    "sizeExactly(1250000000)": "1.25 GB",
    "sizeExactly(17)": "17 B",
    "size(1250000000)": "1.3 GB",
    "exactly(0.0625)": "6.25 %",
    "signed(-0.001)": "+0.00",
    "signed(-0.005, 3)": "-0.005",
    "signed(null)": "\N{EN DASH}",
    "took({ state: 'paused', started_at: '2026-01-01T00:00:00Z', finished_at: null })": "\N{EN DASH}",
    "took({ state: 'queued', started_at: '2026-01-01T00:00:00Z', finished_at: null })": "\N{EN DASH}",
    "took({ state: 'failed', started_at: '2026-01-01T00:00:00Z', finished_at: '2026-01-01T00:02:03Z' })": (
        "2 min 3 s"
    ),
}


def test_formats(page, server):
    url, _ = server
    page.goto(url)
    calls = ", ".join(f"format.{call}" for call in FORMATS)
    shown = page.evaluate(f"import('/page/format.js').then((format) => [{calls}])")
    assert dict(zip(FORMATS, shown, strict=True)) == FORMATS
