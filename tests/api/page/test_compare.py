"""Comparison of jobs: their files, their numbers and the ranks of what they export."""

import re

from browsing import finished, in_mid_search, row, saved, section
from playwright.sync_api import expect


def test_jobs_are_ticked_and_compared(page, server, pipeline, scored):
    url, client = server
    first = finished(client, {**scored, "name": "<i>first</i>"})
    pipeline.result["promise_held"] = False
    pipeline.result["ranks"] = {"layers.0.q_proj": -1, "layers.1.q_proj": 24}
    scored["task"]["prompt"] = "x" * 500 + "{{ text }}"
    second = finished(client, {**scored, "name": "second", "objective": {"kind": "max_drop", "points": 1}})
    finished(client, {**scored, "name": "third"})

    page.goto(url)
    compare = page.get_by_role("button", name=re.compile("^compare"))
    expect(compare).to_be_disabled()
    page.get_by_label("compare <i>first</i>").check()
    expect(compare).to_be_disabled()
    page.get_by_label("compare third").check()
    page.get_by_label("compare third").uncheck()
    page.get_by_label("compare second").check()
    client.change(first, {"labels": {"team": "nlp"}})
    expect(page.get_by_text("team: nlp")).to_be_visible()  # the list was read anew, and keeps the ticks
    expect(page.get_by_label("compare <i>first</i>")).to_be_checked()
    expect(page.get_by_label("compare third")).not_to_be_checked()
    compare.click()

    expect(page.get_by_role("heading", level=1)).to_have_text("Compare 2 jobs")
    assert page.url == f"{url}/#/compare/{first},{second}"
    expect(section(page, "In numbers").locator("tbody tr")).to_have_text(
        [
            re.compile(
                r"^● <i>first</i> succeeded40\.0 %\+0\.70 \[-0\.50, \+1\.90\] points, test2\.20×.*smet$"
            ),
            re.compile("^■ second succeeded.*not met$"),
        ]
    )
    specs = section(page, "What differs in the job files")
    expect(specs.get_by_role("columnheader")).to_have_text(["field", "● <i>first</i>", "■ second"])
    expect(specs.locator("tbody tr")).to_have_text(
        [
            "name<i>first</i>second",
            re.compile("^task.promptReview: .*x{200}… .510 characters.$", re.DOTALL),
            "objective.points21",
            "labels.teamnlp\N{EN DASH}",
        ]
    )
    ranks = section(page, "Ranks of the exported models")
    expect(ranks.get_by_role("heading", level=3)).to_have_text(
        ["<i>first</i>", "second", "second against <i>first</i>"]
    )
    expect(ranks.get_by_role("table")).to_have_count(3)
    difference = ranks.get_by_role("table").last
    expect(row(difference, "q_proj").get_by_role("cell")).to_have_text(["+50", "-25", "+13"])
    expect(row(difference, "kept, %").get_by_role("cell")).to_have_text(["+50", "-25", "+13"])
    expect(difference.locator(".less").first).to_have_attribute(
        "title", "q_proj of layer 1: 100.0 % of its numbers, 75.0 % here"
    )
    chart = page.get_by_role("img", name="Size against drop of these jobs")
    expect(chart).to_have_accessible_name(
        re.compile(r"<i>first</i>: 1 models found, 2 finalists; second: 1 models found, 2 finalists$")
    )
    numbers = saved(page, "Size against drop of these jobs as CSV")[1].decode().splitlines()
    assert numbers[0] == "job,kind,kept_share,drop_points,drop_low,drop_high"
    assert numbers[4:] == [
        "second,candidate,0.41,0.8,,",
        "second,finalist,0.5,-0.5,-1.6,0.6",
        "second,finalist,0.4,0.5,-0.6,1.6",
    ]
    assert page.locator("main i").count() == 0


def test_running_and_missing_jobs(page, server, pipeline, scored):
    url, client = server
    [id] = in_mid_search(pipeline, client, scored)
    page.goto(f"{url}/#/compare/{id},{id}")
    expect(section(page, "In numbers").locator("tbody tr").first).to_contain_text("snippets searching")
    expect(section(page, "What differs in the job files")).to_contain_text("Nothing.")
    expect(section(page, "Ranks of the exported models")).to_be_hidden()
    page.goto(f"{url}/#/compare/{id},00")
    expect(page.get_by_role("alert")).to_contain_text("00")
    page.goto(f"{url}/#/compare/{','.join('1234567')}")
    expect(page.get_by_role("alert")).to_have_text("At most 6 jobs can be compared; got 7.")
