"""Accessibility of every view, as axe-core finds it: light, dark, and as narrow as a phone."""

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import finished, in_mid_search, section
from playwright.sync_api import expect

LOOKS = [("light", 1200), ("dark", 1200), ("light", 390)]
GRAVE = {"serious", "critical"}


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_nothing_serious_is_found(page, server, pipeline, scored, scheme, width):
    url, client = server
    done = [finished(client, {**scored, "name": name}) for name in ("first", "second")]
    [running] = in_mid_search(pipeline, client, {**scored, "name": "third", "labels": {"team": "nlp"}})
    views = {
        "#/": page.get_by_role("link", name="third"),
        f"#/jobs/{done[0]}": section(page, "Models found").locator(".ranks"),
        f"#/jobs/{running}": page.get_by_role("list", name="Stages"),
        "#/submit": page.get_by_role("textbox", name="Job file"),
        f"#/compare/{','.join(done)}": section(page, "Ranks of the exported models").locator(".ranks").last,
    }
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(url)

    found = {}
    for view, shown in views.items():
        page.goto(f"{url}/{view}")
        expect(shown).to_be_visible()
        page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true;")
        violations = Axe().run(page).response["violations"]
        grave = [one for one in violations if one["impact"] in GRAVE]
        found |= {f"{view}: {one['id']}": [node["target"] for node in one["nodes"]] for one in grave}
    assert found == {}
