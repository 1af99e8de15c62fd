"""Table of all candidates: only rows in view exist, and all can be sorted, picked and saved."""

import pytest
from browsing import finished, row, section
from playwright.sync_api import expect

MANY = """async (many) => {
    const { CandidateTable } = await import("/page/candidate_table.js");
    const table = new CandidateTable("points", (id) => { window.picked = id; });
    document.querySelector("main").replaceChildren(table.element);
    const all = Array.from({ length: many }, (_, index) => ({
        id: index + 1, generation: index % 100, kept_share: ((index * 7919) % many) / many,
        loss_nats: 0.1, drop_points: index % 2 === 0 ? null : index / many, drop_bound: null,
    }));
    window.all = all;
    table.show(all);
    table.element.open = true;
    window.table = table;
}"""


@pytest.fixture
def many(page, server):
    """A table of 10,000 candidates in place of a view, which the list of jobs leaves alone."""
    url, _ = server
    page.goto(f"{url}/#/jobs/00")
    expect(page.get_by_role("alert")).to_be_visible()
    page.evaluate(MANY, 10_000)
    table = page.get_by_role("table", name="Candidates")
    expect(table.get_by_role("row").nth(5)).to_be_visible()
    return table


def test_only_rows_in_view_exist(page, many):
    assert many.get_by_role("row").count() < 60
    expect(many).to_have_attribute("aria-rowcount", "10001")
    expect(many.get_by_role("row").nth(1)).to_contain_text("0.0 %")

    page.get_by_role("region", name="Candidates, all").evaluate(
        "rows => { rows.scrollTop = rows.scrollHeight; }"
    )
    last = many.get_by_role("row").last
    expect(last).to_have_attribute("aria-rowindex", "10001")
    expect(last).to_contain_text("100.0 %")
    expect(last).to_be_in_viewport()
    assert many.get_by_role("row").count() < 60
    heights = many.evaluate("table => [...table.tBodies[0].rows].slice(1, -1).map((row) => row.offsetHeight)")
    assert set(heights) == {28}


def test_rows_are_sorted_and_picked(page, many):
    heads = many.get_by_role("columnheader")
    expect(heads.nth(0)).to_have_attribute("aria-sort", "ascending")
    drop = many.get_by_role("button", name="drop, points")
    drop.click()
    expect(many.get_by_role("row").nth(1)).to_contain_text("+0.00")
    drop.click()
    expect(heads.nth(2)).to_have_attribute("aria-sort", "descending")
    expect(many.get_by_role("row").nth(1)).to_contain_text("+1.00")  # those without a drop stay last
    many.get_by_role("button", name="show candidate 10000").click()
    assert page.evaluate("window.picked") == "10000"


def test_focus_stays_while_rows_come_and_go(page, many):
    rows = page.get_by_role("region", name="Candidates, all")
    focused = many.get_by_role("row").nth(8).get_by_role("button")
    name = focused.get_attribute("aria-label")
    focused.focus()
    rows.evaluate("rows => { rows.scrollTop += 100; }")
    page.evaluate("window.table.show([...window.all])")

    expect(page.get_by_role("button", name=name)).to_be_focused()


def test_candidate_is_picked_from_the_table(page, server, scored):
    url, client = server
    page.goto(f"{url}/#/jobs/{finished(client, scored)}")
    models = section(page, "Models found")
    models.get_by_text("All 1 scored candidates").click()
    expect(models.get_by_role("table", name="Candidates").get_by_role("row").nth(1)).to_have_text(
        "41.0 %0.0400+0.80+1.6001"
    )
    models.get_by_role("button", name="show candidate 1").click()
    expect(models.get_by_role("combobox", name="Model")).to_have_value("1")
    ranks = models.locator(".ranks")
    expect(row(ranks, "q_proj").get_by_role("cell")).to_have_text(["16", "32", "75"])
    with page.expect_download() as download:
        models.get_by_role("button", name="Candidates as CSV").click()
    assert download.value.path().read_text().splitlines() == [
        'kept,"loss, nats","drop, points",drop at most,generation,candidate',
        "0.41,0.04,0.8,1.6,0,1",
    ]
