"""Looks of the page: focus, scrolling, curves, colours, and width."""

from itertools import product

import pytest
from browsing import finished, fits, in_mid_search, section
from playwright.sync_api import expect


def test_focus_stays(page, server, pipeline, spec):
    url, client = server
    [id] = in_mid_search(pipeline, client, spec)

    page.goto(url)
    link = page.get_by_role("link", name="snippets")
    link.focus()
    client.change(id, {"labels": {"team": "nlp"}})
    expect(page.get_by_text("team: nlp")).to_be_visible()
    expect(link).to_be_focused()
    link.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    button = page.get_by_role("button", name="cancel")
    button.focus()
    client.change(id, {"name": "another"})
    expect(page.get_by_role("heading", level=1)).to_have_text("another searching")
    expect(button).to_be_focused()


def test_scrolled_log_stays(page, server, pipeline, spec):
    url, client = server
    [id] = in_mid_search(pipeline, client, spec)
    for number in range(30):
        client.change(id, {"name": f"name {number}"})
    page.goto(f"{url}/#/jobs/{id}")
    listed = section(page, "Events").get_by_role("listitem")
    expect(listed.first).to_contain_text("name 29")
    read = listed.filter(has_text="name 5")
    read.evaluate("item => item.parentElement.scrollTop = item.offsetTop")
    before = read.bounding_box()

    client.change(id, {"name": "the last"})

    expect(listed.first).to_contain_text("the last")
    assert read.bounding_box()["y"] == pytest.approx(before["y"], abs=2)


def test_contrast_of_ranks(page, server, scored):
    url, client = server
    id = finished(client, scored)
    page.goto(f"{url}/#/jobs/{id}")
    cell = section(page, "Models found").locator(".ranks td").first
    expect(cell).to_be_visible()

    for scheme, density in product(("light", "dark"), (0, 0.25, 0.5, 0.51, 0.75, 1)):
        page.emulate_media(color_scheme=scheme)
        assert cell.evaluate(CONTRAST, density) >= 4.5  # Source: WCAG 2.2, success criterion 1.4.3


CONTRAST = """(cell, density) => {
  cell.style.setProperty("--kept", density);
  const { color, backgroundColor } = getComputedStyle(cell);
  const luminance = (colour) => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d");
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const channels = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => value / 255);
    const [r, g, b] = channels.map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const [darker, lighter] = [color, backgroundColor].map(luminance).sort((one, other) => one - other);
  return (lighter + 0.05) / (darker + 0.05);
}"""
"""How a cell of the map contrasts with its text, if its matrix kept such a share of its numbers."""


def test_charts_follow_the_colour_scheme(page, server, scored):
    url, client = server
    page.emulate_media(color_scheme="light")
    page.goto(f"{url}/#/jobs/{finished(client, scored)}")
    title = page.get_by_role("img", name="Size against loss").get_by_text("Size against loss")
    expect(title).to_have_css("fill", "rgb(23, 33, 43)")

    page.emulate_media(color_scheme="dark")

    expect(title).to_have_css("fill", "rgb(221, 229, 234)")


def test_zoom_stays(page, server, scored):
    url, client = server
    id = finished(client, scored)
    page.goto(f"{url}/#/jobs/{id}")
    chart = page.get_by_role("img", name="Size against loss")
    ends = [chart.get_by_text(str(share), exact=True) for share in (40, 50)]
    for end in ends:
        expect(end).to_be_visible()
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    height = box["y"] + 100

    page.mouse.move(box["x"] + box["width"] * 0.25, height)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, height, steps=5)
    page.mouse.up()
    for end in ends:
        expect(end).to_have_count(0)
    page.set_viewport_size({"width": 900, "height": 700})  # it is drawn anew
    expect(chart.locator("> svg")).not_to_have_attribute("width", str(round(box["width"])))
    for end in ends:
        expect(end).to_have_count(0)
    page.mouse.dblclick(box["x"] + 300, height)
    for end in ends:
        expect(end).to_be_visible()


def test_width_with_a_long_name(page, server, spec):
    url, client = server
    name = "x" * 200
    id = finished(client, {**spec, "name": name, "labels": {"y" * 60: "z" * 60}})
    for place in ("", f"#/jobs/{id}"):
        page.goto(f"{url}/{place}")
        expect(page.get_by_text(name).first).to_be_visible()
        assert fits(page)


def test_width_of_a_phone(page, server, pipeline, spec):
    url, client = server
    pipeline.result["latency"] = {
        "workload": {"kind": "prefill", "rows": 4, "length": 30},
        "measured_dense_ms": 100.0, "measured_ms": 62.5, "measured_share": 0.625, "expected_share": 0.6,
    }  # fmt: skip
    page.goto(f"{url}/#/jobs/{finished(client, spec)}")
    for width in (412, 320):
        page.set_viewport_size({"width": width, "height": 700})
        expect(section(page, "Files")).to_be_visible()
        expect(section(page, "Confirmed on fresh records")).to_be_visible()
        assert fits(page)
