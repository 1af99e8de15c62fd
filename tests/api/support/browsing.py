"""Steps and places that tests of the page share."""

import re

KEEPS_PLOTS = """() => {
    window.plots = [];
    const construct = (plot, given) => { window.plots.push(new plot(...given)); return window.plots.at(-1); };
    window.uPlot = new Proxy(window.uPlot, { construct });
}"""
"""From then on `window.plots` has what the page draws."""


def finished(client, spec):
    job = client.submit(spec)
    for _ in client.events(job["id"]):
        pass
    return job["id"]


def in_mid_search(pipeline, client, spec, jobs=1):
    """Submits jobs, the first of which searches until `pipeline.go` is set while the others wait; returns their ids."""
    pipeline.go.clear()
    ids = [client.submit(spec)["id"] for _ in range(jobs)]
    assert pipeline.searching.wait(60)
    return ids


def section(page, title):
    return page.locator("section", has=page.get_by_role("heading", name=title, exact=True))


def row(table, name):
    return table.get_by_role("row", name=re.compile(f"^{name}"))
