"""Steps and places that tests of the page share."""

import re


def saved(page, button):
    """Name and content of the file that a button saves."""
    with page.expect_download() as downloaded:
        page.get_by_role("button", name=button).click()
    return downloaded.value.suggested_filename, downloaded.value.path().read_bytes()


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


FITS = """() => new Promise(done => {
  const page = document.documentElement, end = performance.now() + 30_000;
  const look = () => {
    if (page.scrollWidth <= page.clientWidth) done(true);
    else if (performance.now() > end) done(false);
    else requestAnimationFrame(look);
  };
  look();
})"""


def fits(page):
    """Whether the page comes to be no wider than its window, within 30 s.

    `wait_for_function` cannot ask that: from its second look on it evaluates text, which the page's policy forbids.
    """
    return page.evaluate(FITS)
