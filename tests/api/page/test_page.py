"""The page in a real browser, Debian's Chromium: what it shows of jobs as they go on, and what may be done there."""

import hashlib
import re
from contextlib import contextmanager
from datetime import timedelta

import pytest
from playwright.sync_api import expect, sync_playwright

from ranksieve.api.cli.embedded import embedded
from ranksieve.api.page import FILES
from ranksieve.search.errors import InfrastructureError
from ranksieve.service.server.settings import Settings

expect.set_options(timeout=60_000)

PUBLISHED = {
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    "LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
}
"""SHA-256 of what uPlot 1.6.32 has of these files."""


@pytest.fixture(scope="module")
def browser(chromium):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium.program,
            env=chromium.environment,
            args=["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking"],
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser):
    """An empty tab. What its pages say on the console, and whom they ask but their server, is a failure."""
    with browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(60_000)
        said, asked = [], set()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.add("/".join(request.url.split("/")[:3])))
        yield page
        assert [text for text in said if "Failed to load resource" not in text] == []
        assert len(asked) <= 1


@pytest.fixture
def serving(build):
    """Serves an application, and has the URL and a client that is its admin."""

    @contextmanager
    def serving(settings):
        with embedded(build(settings)) as client:
            yield client.connection.url, client

    return serving


@pytest.fixture
def server(serving, settings):
    with serving(settings) as (url, client):
        yield url, client


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


@pytest.fixture
def scored(spec):
    """A job file whose candidate is scored on all its search examples, and so is on the front."""
    spec["task"]["data"]["sizes"] = {"search": 8}
    return spec


def section(page, title):
    return page.locator("section", has=page.get_by_role("heading", name=title, exact=True))


def row(table, name):
    return table.get_by_role("row", name=re.compile(f"^{name}"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_others_wrote_is_as_they_published_it(name):
    assert hashlib.sha256((FILES / "uplot" / name).read_bytes()).hexdigest() == PUBLISHED[name]


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/page/uplot/uPlot.iife.min.js"])
def test_files_allow_themselves_alone(shared, path):
    response = shared.get(path)

    assert response.status_code == 200
    assert response.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert response.headers["cache-control"] == "no-cache"
    assert shared.head(path).headers["content-length"] == response.headers["content-length"]
    assert shared.get(path, headers={"If-None-Match": response.headers["etag"]}).status_code == 304


@pytest.mark.parametrize(
    "path", ["/page/", "/page/../__init__.py", "/page/%2e%2e/__init__.py", "/page/none.js"]
)
def test_there_are_no_other_files(shared, path):
    assert shared.get(path).status_code == 404


def test_a_job_that_has_ended_is_shown_with_all_that_it_came_to(page, server, scored):
    url, client = server
    id = finished(client, scored)

    page.goto(url)
    page.get_by_role("link", name="snippets").click()

    expect(page).to_have_url(f"{url}/#/jobs/{id}")
    expect(page.get_by_role("heading", level=1)).to_have_text("snippets succeeded")
    result = section(page, "Result")
    expect(result).to_contain_text("loses at most 2 points, with 80 % confidence. The objective is met.")
    expect(row(result, "block parameters")).to_contain_text("400 (40.0 % kept)")
    expect(row(result, "accuracy, test")).to_contain_text("0.781 [0.755, 0.806], drop +0.70 [-0.50, +1.90]")
    expect(section(page, "The search").locator("canvas")).to_have_count(2)
    expect(section(page, "Files").get_by_role("link", name="tokenizer/vocab.txt")).to_be_visible()
    expect(section(page, "Events").get_by_role("listitem").first).to_contain_text("job.state state succeeded")
    with page.expect_download() as downloaded:
        section(page, "Files").get_by_role("link", name="config.json").click()
    assert downloaded.value.path().read_text() == '{"ranks": [1, 2]}'


def test_ranks_are_those_of_the_model_that_is_chosen(page, server, scored):
    url, client = server
    id = finished(client, scored)
    [found] = client.connection.request("GET", f"/v1/jobs/{id}/candidates?pareto=true")["candidates"]
    page.goto(f"{url}/#/jobs/{id}")
    models = section(page, "Models found")

    def cells():
        return row(models.get_by_role("table"), "q_proj").get_by_role("cell")

    expect(cells()).to_have_text(["16", "·"])
    expect(cells().first).to_have_attribute("title", "q_proj of layer 0: rank 16, 50.0 % of its numbers")
    models.get_by_role("combobox", name="Model").select_option(str(found["id"]))
    expect(cells()).to_have_text(["16", "32"])
    models.get_by_role("combobox", name="Model").select_option(label="the exported model")
    expect(cells()).to_have_text(["16", "·"])
    models.locator(".u-over").click()  # the one point of the front is the nearest
    expect(models.get_by_role("combobox", name="Model")).to_have_value(str(found["id"]))
    expect(cells()).to_have_text(["16", "32"])


def test_another_size_of_a_job_is_asked_for(page, server, scored):
    url, client = server
    id = finished(client, scored)
    page.goto(f"{url}/#/jobs/{id}")
    others = section(page, "Other sizes")

    others.get_by_role("spinbutton").fill("30")
    others.get_by_role("button", name="export").click()
    expect(page.locator("article > [role=alert]")).to_contain_text("smallest model keeps 41.0 %")
    others.get_by_role("spinbutton").fill("41")
    others.get_by_role("button", name="export").click()

    expect(page.get_by_role("link", name="another size of this job")).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("succeeded$"))
    expect(section(page, "Other sizes")).to_be_hidden()
    page.get_by_role("link", name="another size of this job").click()
    expect(others.get_by_role("link", name="41.0 % kept")).to_be_visible()


def test_other_sizes_are_shown_as_they_come_on(page, server, scored):
    url, client = server
    id = finished(client, scored)
    made = client.export(id, share=0.5)
    now = {**made, "state": "queued"}
    page.route("**/exports", lambda route: route.fulfill(json={"exports": [now]}))
    page.goto(f"{url}/#/jobs/{id}")
    others = section(page, "Other sizes")
    for state in ("queued", "searching", "succeeded"):
        now["state"] = state
        expect(others.get_by_role("row", name=re.compile("41.0 % kept"))).to_contain_text(
            state, timeout=15_000
        )


def test_a_confidence_is_told_as_it_was_asked_for_and_what_the_intervals_are(page, server, pipeline, spec):
    url, client = server
    pipeline.result["objective"] = {**pipeline.result["objective"], "confidence": 0.995}
    page.goto(f"{url}/#/jobs/{finished(client, spec)}")
    expect(section(page, "Result")).to_contain_text("with 99.5 % confidence")
    expect(section(page, "Result")).to_contain_text("In brackets 95 % intervals.")
    expect(section(page, "Confirmed on fresh records").get_by_role("columnheader").nth(3)).to_have_text(
        "95 % interval"
    )
    expect(section(page, "Confirmed on fresh records").locator("tbody tr").last).to_contain_text("exported")


def test_a_second_look_at_a_finalist_replaces_the_first_and_another_of_its_size_does_not(page, server):
    url, _ = server
    page.goto(url)
    looks = [(0.4, 512), (0.4, 512), (0.4, 1200), (0.3, 512)]
    events = [
        {"type": "finalist.confirmed", "data": {"kept_share": share, "examples": examples}}
        for share, examples in looks
    ]
    left = page.evaluate(
        """async (events) => {
            const { History } = await import("/page/history.js");
            const history = new History();
            history.add(events);
            return history.finalists.map((one) => [one.kept_share, one.examples]);
        }""",
        events,
    )
    assert left == [[0.4, 1200], [0.3, 512]]


def test_a_job_is_read_anew_with_every_generation_as_a_pause_that_is_asked_for_elsewhere_is_no_event(
    page, server
):
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


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("sizeExactly(1250000000)", "1.25 GB"),
        ("sizeExactly(17)", "17 B"),
        ("size(1250000000)", "1.3 GB"),
        ("exactly(0.0625)", "6.25 %"),
        ("signed(-0.001)", "+0.00"),
        ("signed(-0.005, 3)", "-0.005"),
        ("signed(null)", "\N{EN DASH}"),
        ("took({ state: 'paused', started_at: '2026-01-01T00:00:00Z', finished_at: null })", "\N{EN DASH}"),
        ("took({ state: 'queued', started_at: '2026-01-01T00:00:00Z', finished_at: null })", "\N{EN DASH}"),
        (
            "took({ state: 'failed', started_at: '2026-01-01T00:00:00Z', finished_at: '2026-01-01T00:02:03Z' })",
            "2 min 3 s",
        ),
    ],
)
def test_numbers_and_times_are_told_as_people_read_them(page, server, expression, expected):
    url, _ = server
    page.goto(url)
    assert page.evaluate(f"import('/page/format.js').then((format) => format.{expression})") == expected


def test_a_job_goes_on_before_ones_eyes(page, server, pipeline, spec):
    url, client = server
    [id] = in_mid_search(pipeline, client, spec)

    page.goto(f"{url}/#/jobs/{id}")
    expect(page.get_by_role("heading", level=1)).to_have_text("snippets searching")
    expect(section(page, "Result")).to_be_hidden()
    pipeline.go.set()

    expect(page.get_by_role("heading", level=1)).to_have_text("snippets succeeded")
    expect(section(page, "Result")).to_be_visible()
    expect(page.get_by_role("button", name="pause")).to_have_count(0)


def test_a_connection_that_breaks_is_mended_without_a_gap(page, server, pipeline, spec):
    url, client = server
    [id] = in_mid_search(pipeline, client, spec)
    broken = []

    def break_twice(route):
        if len(broken) < 2:
            broken.append(route.request.url)
            route.abort()
        else:
            route.continue_()

    page.route("**/events?*", break_twice)
    page.goto(f"{url}/#/jobs/{id}")
    expect(section(page, "The search")).to_be_visible()
    pipeline.go.set()

    expect(page.get_by_role("heading", level=1)).to_have_text("snippets succeeded")
    assert len(broken) == 2
    listed = section(page, "Events").get_by_role("listitem")
    events = client.connection.request("GET", f"/v1/jobs/{id}/events")["events"]
    expect(listed).to_have_count(sum(event["type"] != "phase.progress" for event in events))


def test_a_tab_that_nobody_looks_at_keeps_no_connection(page, build, settings, pipeline, spec):
    def show(hidden):
        page.evaluate(
            "hidden => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true});"
            " document.dispatchEvent(new Event('visibilitychange')); }",
            hidden,
        )

    pipeline.go.clear()
    application = build(settings)
    with embedded(application) as client:
        id = client.submit(spec)["id"]
        assert pipeline.searching.wait(60)
        page.goto(f"{client.connection.url}/#/jobs/{id}")
        expect(section(page, "The search")).to_be_visible()
        with page.expect_event("requestfailed", lambda request: "/events?" in request.url):
            show(True)
        pipeline.go.set()
        for _ in client.events(id):
            pass
        expect(page.get_by_role("heading", level=1)).to_have_text("snippets searching")

        show(False)

        expect(page.get_by_role("heading", level=1)).to_have_text("snippets succeeded")


def test_a_job_is_stopped_and_cancelled_from_the_page(page, server, pipeline, spec):
    url, client = server
    first, second = in_mid_search(pipeline, client, spec, jobs=2)

    page.goto(f"{url}/#/jobs/{second}")
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="cancel").click()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="cancel").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("snippets cancelled")
    page.goto(f"{url}/#/jobs/{first}")
    page.get_by_role("button", name="stop").click()

    expect(page.get_by_role("heading", level=1)).to_have_text("snippets succeeded")


def test_a_paused_job_goes_on_from_the_page(page, server, pipeline, spec):
    url, client = server
    first, second = in_mid_search(pipeline, client, spec, jobs=2)

    page.goto(f"{url}/#/jobs/{second}")
    page.get_by_role("button", name="pause").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("snippets paused")
    page.get_by_role("button", name="resume").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("snippets queued")
    pipeline.go.set()

    expect(page.get_by_role("heading", level=1)).to_have_text("snippets succeeded")
    assert client.job(first)["state"] == "succeeded"


def test_a_key_is_asked_for_and_kept_for_the_tab(page, serving, tmp_path, scored):
    settings = Settings(data_dir=tmp_path / "data", api_key="open sesame")
    with serving(settings) as (url, client):
        id = finished(client, scored)
        page.goto(url)
        page.get_by_label("API key").last.fill("open barley")
        page.get_by_role("button", name="Use").click()
        expect(page.get_by_role("alert")).to_contain_text("unknown API key")
        page.get_by_label("API key").last.fill("open sesame")
        page.get_by_role("button", name="Use").click()
        page.get_by_role("link", name="snippets").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("snippets succeeded")
        expect(section(page, "Files").get_by_role("link")).to_have_count(0)
        page.reload()
        expect(page.get_by_role("heading", level=1)).to_have_text("snippets succeeded")

        page.get_by_role("button", name="API key").click()
        page.get_by_role("button", name="Forget").click()
        expect(page.get_by_role("alert")).to_have_text("This server needs an API key.")
        assert page.evaluate("sessionStorage.length + localStorage.length") == 0
        assert id not in page.content()


def test_what_the_server_has_against_a_request_is_said(page, serving, tmp_path, pipeline, spec):
    settings = Settings(data_dir=tmp_path / "data", api_key="open sesame")
    with serving(settings) as (url, client):
        key = client.connection.request("POST", "/v1/keys", json={"owner": "admin", "scope": "read"})
        pipeline.go.clear()
        id = client.submit(spec)["id"]
        page.add_init_script(f"sessionStorage.setItem('ranksieve.key', '{key['secret']}')")
        page.goto(f"{url}/#/jobs/{id}")
        page.get_by_role("button", name="pause").click()

        expect(page.get_by_role("alert")).to_contain_text("scope")


def test_what_is_left_of_a_job_whose_events_are_past_retention(page, build, settings, pipeline, scored):
    application = build(settings)
    with embedded(application) as client:
        tested = zip(pipeline.result["finalists"], (True, False), strict=True)
        finalists = [{**one, "risk": 0.1, "passed": passed} for one, passed in tested]
        pipeline.result["finalists"] = finalists
        id = finished(client, scored)
        application.store.cleanup.forget_events(timedelta(seconds=-1))
        page.goto(f"{client.connection.url}/#/jobs/{id}")

        expect(page.get_by_role("alert")).to_have_text("The events of this job are past retention.")
        expect(section(page, "The search").locator("canvas")).to_have_count(2)
        expect(section(page, "Confirmed on fresh records").locator("tbody tr")).to_have_text(
            ["50.0 %512-0.50-1.60 to +0.60passed", "40.0 %1,200+0.50-0.60 to +1.60not passed, exported"]
        )


def test_texts_of_jobs_are_texts(page, server, spec):
    url, client = server
    hostile = "<img src=x onerror=alert(1)>"
    id = finished(client, {**spec, "name": hostile, "labels": {hostile: hostile}})

    page.goto(url)
    page.get_by_role("link", name=hostile).click()

    expect(page.get_by_role("heading", level=1)).to_have_text(f"{hostile} succeeded")
    expect(page.get_by_text(f"{hostile}: {hostile}")).to_be_visible()
    assert page.locator("main img").count() == 0
    assert client.job(id)["name"] == hostile


def test_a_job_that_failed_says_why_and_one_that_is_not_there_that_it_is_not(page, server, pipeline, spec):
    url, client = server
    pipeline.failure = ValueError("a fault of ours")
    finished(client, spec)

    page.goto(url)
    expect(page.get_by_role("cell", name="unexpected ValueError")).to_be_visible()
    page.get_by_role("link", name="snippets").click()
    expect(page.locator(".problem").first).to_contain_text("unexpected ValueError")
    page.goto(f"{url}/#/jobs/00000000")
    expect(page.get_by_role("alert")).to_contain_text("00000000")


def test_jobs_are_listed_by_state_and_a_page_at_a_time(page, server, pipeline, spec):
    url, client = server
    first = finished(client, {**spec, "name": "the first"})
    pipeline.go.clear()
    for number in range(26):
        client.submit({**spec, "name": f"job {number}"})

    page.goto(url)
    expect(page.get_by_role("link", name="job 25", exact=True)).to_be_visible()
    expect(page.locator("tbody tr")).to_have_count(25)
    page.get_by_role("button", name="older").click()
    expect(page.get_by_role("link", name="the first")).to_be_visible()
    expect(page.locator("tbody tr")).to_have_count(2)
    client.change(first, {"name": "the oldest"})
    expect(page.get_by_role("link", name="the oldest")).to_be_visible()  # a later page is read anew, too
    page.get_by_role("link", name="the oldest").click()
    expect(page.get_by_role("heading", name="the oldest")).to_be_visible()
    page.go_back()
    expect(page.locator("tbody tr")).to_have_count(2)
    page.get_by_role("button", name="newer").click()
    expect(page.locator("tbody tr")).to_have_count(25)
    page.get_by_label("State").select_option("crashed")
    expect(page.get_by_text("No such jobs.")).to_be_visible()
    page.get_by_label("State").select_option("succeeded")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.reload()
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.get_by_label("State")).to_have_value("succeeded")
    pipeline.go.set()
    expect(page.locator("tbody tr")).to_have_count(25)  # the list is read anew as jobs end


def test_a_key_is_used_by_enter_and_left_as_it_was_by_escape(page, serving, tmp_path, scored):
    def stored():
        return page.evaluate("sessionStorage.getItem('ranksieve.key')")

    settings = Settings(data_dir=tmp_path / "data", api_key="open sesame")
    with serving(settings) as (url, client):
        finished(client, scored)
        page.goto(url)
        asked = page.get_by_label("API key").last
        asked.fill("schlüssel")
        asked.press("Enter")  # it is in no header: the browser says so
        expect(page.get_by_role("dialog")).to_be_visible()
        asked.fill("open sesame")
        asked.press("Enter")
        expect(page.get_by_role("link", name="snippets")).to_be_visible()
        assert stored() == "open sesame"

        page.get_by_role("button", name="API key").click()
        asked.fill("another")
        asked.press("Escape")

        expect(page.get_by_role("dialog")).to_be_hidden()
        assert stored() == "open sesame"


def test_a_server_that_is_away_or_busy_is_asked_again(page, server, pipeline, spec):
    url, client = server
    [id] = in_mid_search(pipeline, client, spec)
    answers = iter([None, 503, 429])

    def refuse(route):
        status = next(answers, 200)
        if status is None:
            route.abort()
        elif status == 200:
            route.fallback()
        else:
            problem = {"status": status, "detail": f"{status} for a while"}
            route.fulfill(status=status, json=problem)

    page.route(f"**/jobs/{id}", refuse)
    page.goto(f"{url}/#/jobs/{id}")
    trouble = page.locator("#trouble")
    expect(trouble).to_contain_text("503 for a while")
    expect(page.get_by_role("heading", level=1)).to_have_text("snippets searching")
    expect(trouble).to_be_hidden()
    answers = iter([503])
    pipeline.go.set()

    expect(page.get_by_role("heading", level=1)).to_have_text("snippets succeeded")
    answers = iter([])
    page.route("**/v1/jobs?*", refuse)
    page.goto(url)
    expect(page.get_by_role("link", name="snippets")).to_be_visible()
    answers = iter([503])
    expect(trouble).to_contain_text("503 for a while")
    expect(trouble).to_be_hidden()
    expect(page.get_by_role("link", name="snippets")).to_be_visible()


def test_a_stream_that_falls_silent_is_told_of_and_asked_for_again(page, server, pipeline, spec):
    url, client = server
    [id] = in_mid_search(pipeline, client, spec)
    held = []

    def hold(route):
        held.append(route) if not held else route.fallback()

    page.route("**/events?*", hold)
    page.clock.install()
    page.goto(f"{url}/#/jobs/{id}")
    expect(page.get_by_role("heading", level=1)).to_have_text("snippets searching")
    pipeline.go.set()
    page.clock.fast_forward(44_000)
    expect(page.locator("#trouble")).to_be_hidden()
    page.clock.fast_forward(2_000)
    expect(page.locator("#trouble")).to_contain_text("the server has stopped sending")

    page.clock.fast_forward(2_000)
    expect(page.get_by_role("heading", level=1)).to_have_text("snippets succeeded")
    expect(page.locator("#trouble")).to_be_hidden()


def test_whoever_is_at_a_button_is_at_the_one_that_comes_for_it(page, server, pipeline, spec):
    url, client = server
    [id] = in_mid_search(pipeline, client, spec)
    page.goto(f"{url}/#/jobs/{id}")
    page.get_by_role("button", name="pause").press("Enter")
    expect(page.get_by_role("button", name="resume")).to_be_focused()
    pipeline.go.set()


def test_a_job_that_crashed_and_is_resumed_elsewhere_goes_on(page, build, settings, pipeline, spec):
    application = build(settings)
    with embedded(application) as client:
        pipeline.failure = InfrastructureError("the machine is at fault")
        id = finished(client, spec)
        assert client.job(id)["state"] == "crashed"
        page.goto(f"{client.connection.url}/#/jobs/{id}")
        expect(page.get_by_role("heading", level=1)).to_have_text("snippets crashed")
        expect(section(page, "Events").get_by_text("message the machine is at fault").first).to_be_visible()

        pipeline.failure = None
        client.resume(id)

        expect(page.get_by_role("heading", level=1)).to_have_text("snippets succeeded")
        expect(section(page, "Confirmed on fresh records").locator("tbody tr")).to_have_count(2)


def test_a_stream_is_not_kept_where_its_page_shows_an_error(page, server, pipeline, spec):
    url, client = server
    [id] = in_mid_search(pipeline, client, spec)
    page.goto(f"{url}/#/jobs/{id}")
    expect(page.get_by_role("heading", level=1)).to_have_text("snippets searching")

    page.route(f"**/jobs/{id}", lambda route: route.fulfill(status=403, json={"detail": "not for you"}))
    with page.expect_event("requestfailed", lambda request: "/events?" in request.url):
        client.change(id, {"name": "another"})

    expect(page.get_by_role("alert")).to_have_text("not for you")


def test_what_an_lm_loses_is_percent_of_perplexity(page, server, pipeline, spec):
    url, client = server
    spec["task"] = {"kind": "lm", "answer": "{{ text }}", "data": spec["task"]["data"]}
    pipeline.result["metric_name"] = "perplexity"
    id = finished(client, spec)
    page.goto(f"{url}/#/jobs/{id}")

    result = section(page, "Result")
    expect(result).to_contain_text(
        "the smallest model whose perplexity rises by at most 2 %, with 80 % confidence"
    )
    expect(row(result, "perplexity, test")).to_contain_text("drop +0.70 [-0.50, +1.90] % of perplexity")
    expect(section(page, "Confirmed on fresh records").get_by_role("columnheader")).to_have_text(
        ["kept", "records", "drop, % of perplexity", "95 % interval", "outcome"]
    )
    expect(page.get_by_role("img", name=re.compile("^Size and drop"))).to_have_accessible_name(
        re.compile(r"generation 0: kept 41\.0 %, .* 0\.80 % of perplexity$")
    )


def test_a_latency_is_told_with_what_was_expected(page, server, pipeline, spec):
    url, client = server
    pipeline.result["objective"] = {"kind": "target_latency", "share": 0.6, "milliseconds": None}
    pipeline.result["latency"] = {
        "workload": {"kind": "prefill", "rows": 4, "length": 30},
        "measured_dense_ms": 100.0, "measured_ms": 62.5, "measured_share": 0.625, "expected_share": 0.6,
    }  # fmt: skip
    id = finished(client, spec)
    page.goto(f"{url}/#/jobs/{id}")

    expect(row(section(page, "Result"), "prefill of 4 × 30, ms").get_by_role("cell")).to_have_text(
        ["prefill of 4 × 30, ms", "100.0", "62.5 (62.5 %, 60.0 % expected)"]
    )


def test_a_size_is_told_as_it_was_asked_for(page, server, pipeline, spec):
    url, client = server
    pipeline.result["objective"] = {"kind": "target_bytes", "share": None, "size": 92_750_000}
    page.goto(f"{url}/#/jobs/{finished(client, spec)}")
    expect(section(page, "Result")).to_contain_text("the best model whose files take at most 92.75 MB.")


def test_a_front_of_more_models_than_an_answer_holds_is_shown_whole(page, server, scored):
    def answer(route):
        offset = int(re.search(r"offset=(\d+)", route.request.url)[1])
        route.fulfill(json={**one, "candidates": front[offset : offset + 1000]})

    url, client = server
    id = finished(client, scored)
    one = client.connection.request("GET", f"/v1/jobs/{id}/candidates?pareto=true")
    front = [{**one["candidates"][0], "kept_share": 0.1 + number / 2000} for number in range(1100)]
    page.route("**/candidates?*", answer)
    page.goto(f"{url}/#/jobs/{id}")
    sizes = page.get_by_role("img", name=re.compile("^Models that no smaller one beats"))
    expect(sizes).to_have_accessible_name(re.compile(r"1100 points, the last at kept, % 65\.0"))


def test_a_result_tells_why_a_promise_was_not_held_and_what_was_left_out(page, server, pipeline, scored):
    url, client = server
    pipeline.result |= {"promise_held": False, "notes": ["8 records to confirm are too few"]}
    pipeline.result["best"]["left_out_params"] = 1024
    id = finished(client, scored)
    page.goto(f"{url}/#/jobs/{id}")

    result = section(page, "Result")
    expect(result).to_contain_text("The objective is not met.")
    expect(result.get_by_text("8 records to confirm are too few.", exact=True)).to_be_visible()
    expect(result).to_contain_text("1,024 parameters that the search counted are left out")


def test_an_export_tells_what_was_asked_and_on_what_it_was_measured(page, server, pipeline, scored):
    url, client = server
    id = finished(client, scored)
    pipeline.result["export"] = {
        "job": id, "asked": {"share": 0.5}, "measured_on": ["search"], "search_examples": 8,
        "search_drop_points": 0.8,
    }  # fmt: skip
    pipeline.result["promise_held"] = None
    pipeline.result["best"]["metric"] = {"search": 0.77}
    pipeline.result["best"]["drop_points"] = {}
    made = client.export(id, share=0.5)["id"]
    page.goto(f"{url}/#/jobs/{made}")

    expect(page.get_by_role("heading", level=1)).to_have_text("snippets succeeded")
    result = section(page, "Result")
    expect(result).to_contain_text("the best candidate that keeps at most 50.0 % of the parameters")
    expect(result).not_to_contain_text("loses at most")
    expect(row(result, "accuracy, search")).to_contain_text("0.7900.770, drop +0.80 points")
    ranks = section(page, "Models found").get_by_role("table").filter(has_text="q_proj")
    expect(row(ranks, "q_proj").get_by_role("cell")).to_have_text(["16", "·"])


def test_what_is_asked_of_a_job_is_what_it_may_be_asked(page, server, pipeline, spec):
    def buttons():
        return page.locator("article > header").get_by_role("button")

    url, client = server
    first, second = in_mid_search(pipeline, client, spec, jobs=2)

    page.goto(f"{url}/#/jobs/{second}")
    expect(buttons()).to_have_text(["pause", "cancel"])  # it has found nothing that it could stop with
    page.goto(f"{url}/#/jobs/{first}")
    expect(buttons()).to_have_text(["pause", "stop", "cancel"])
    page.route(
        f"**/jobs/{first}", lambda route: route.fulfill(json={**client.job(first), "stop_requested": True})
    )
    page.reload()
    expect(buttons()).to_have_text(["cancel"])


def test_what_has_the_focus_keeps_it_as_numbers_change(page, server, pipeline, spec):
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


def test_a_log_that_is_read_stays_where_it_is(page, server, pipeline, spec):
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


def test_the_exported_model_is_shown_once_it_is_there(page, server, pipeline, scored):
    url, client = server
    [id] = in_mid_search(pipeline, client, scored)
    page.goto(f"{url}/#/jobs/{id}")
    choice = section(page, "Models found").get_by_role("combobox", name="Model")
    expect(choice).to_contain_text("candidate")

    pipeline.go.set()

    expect(choice).to_have_value("")
    cells = row(section(page, "Models found").get_by_role("table"), "q_proj").get_by_role("cell")
    expect(cells).to_have_text(["16", "·"])


def test_the_ranks_shown_are_those_of_the_last_choice(page, server, scored):
    url, client = server
    id = finished(client, scored)
    [found] = client.candidates(id, pareto=True)
    held = []
    page.goto(f"{url}/#/jobs/{id}")
    models = section(page, "Models found")
    expect(models.locator(".ranks")).to_be_visible()

    page.route("**/ranks?candidate=*", lambda route: held.append(route))
    choice = models.get_by_role("combobox", name="Model")
    with page.expect_request("**/ranks?candidate=*"):
        choice.select_option(str(found["id"]))
    choice.select_option(label="the exported model")
    with page.expect_response("**/ranks?candidate=*") as late:
        held.pop().continue_()
    late.value.finished()
    page.evaluate(
        "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )  # it was taken in

    expect(row(models.locator(".ranks"), "q_proj").get_by_role("cell")).to_have_text(["16", "·"])


def test_a_job_whose_ranks_were_not_kept_is_shown_without(page, server, scored, settings):
    url, client = server
    id = finished(client, scored)
    (settings.jobs_dir / id / "matrices.json").unlink()
    page.goto(f"{url}/#/jobs/{id}")

    expect(section(page, "Models found").get_by_text("has no matrices")).to_be_visible()
    expect(section(page, "Files").get_by_role("link", name="config.json")).to_be_visible()


def test_another_state_that_is_asked_for_is_not_overtaken_by_the_one_before(page, server, pipeline, spec):
    url, client = server
    finished(client, {**spec, "name": "done"})
    pipeline.go.clear()
    client.submit({**spec, "name": "under way"})
    assert pipeline.searching.wait(60)
    held = []
    page.goto(url)
    expect(page.locator("tbody tr")).to_have_count(2)

    page.route("**/v1/jobs?*state=searching*", lambda route: held.append(route))
    page.get_by_label("State").select_option("searching")
    page.get_by_label("State").select_option("succeeded")
    expect(page.locator("tbody tr")).to_have_count(1)
    for route in held:
        route.abort()

    expect(page.locator("tbody tr")).to_contain_text(["done"])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_ranks_can_be_read_however_much_a_matrix_keeps(page, server, scored, scheme):
    url, client = server
    id = finished(client, scored)
    page.emulate_media(color_scheme=scheme)
    page.goto(f"{url}/#/jobs/{id}")
    cell = section(page, "Models found").locator(".ranks td").first
    expect(cell).to_be_visible()

    for density in (0, 0.25, 0.5, 0.51, 0.75, 1):
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


def test_curves_follow_the_scheme_of_the_page(page, server, scored):
    url, client = server
    marker = page.locator(".u-marker").nth(1)
    page.emulate_media(color_scheme="light")
    page.goto(f"{url}/#/jobs/{finished(client, scored)}")
    expect(marker).to_have_css("border-top-color", "rgb(11, 114, 133)")

    page.emulate_media(color_scheme="dark")

    expect(marker).to_have_css("border-top-color", "rgb(102, 217, 232)")
    expect(section(page, "The search").locator("canvas")).to_have_count(2)


KEEPS_PLOTS = """() => {
    const { uPlot } = window;
    window.plots = [];
    window.uPlot = function (...given) { window.plots.push(new uPlot(...given)); return window.plots.at(-1); };
}"""
"""From then on `window.plots` has what the page draws."""


def test_a_single_step_is_seen_beside_the_next(page, server, pipeline, spec):
    url, client = server
    in_mid_search(pipeline, client, spec)
    page.goto(url)
    page.evaluate(KEEPS_PLOTS)
    page.get_by_role("link", name="snippets").click()

    expect(page.get_by_role("img", name="Size and drop")).to_have_accessible_name(re.compile(r" 1 point, "))
    assert page.evaluate("window.plots.map(({ scales: { x } }) => [x.min, x.max])") == [[0, 1], [0, 1]]


def test_what_was_zoomed_to_stays_in_view(page, server, pipeline, spec):
    url, client = server
    pipeline.generations = 9
    [id] = in_mid_search(pipeline, client, spec)
    page.goto(url)
    page.evaluate(KEEPS_PLOTS)
    page.get_by_role("link", name="snippets").click()
    losses = page.get_by_role("img", name="Fitness by generation")
    box = losses.locator(".u-over").bounding_box()
    seen = """() => {
        const { x } = window.plots.find((plot) => plot.series[0].label === "generation").scales;
        return [x.min, x.max];
    }"""
    assert page.evaluate(seen) == [0, 8]

    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + 30, steps=5)
    page.mouse.up()
    assert page.evaluate(seen) == pytest.approx([2, 6], abs=0.1)
    client.change(id, {"name": "another"})
    expect(page.get_by_role("heading", level=1)).to_have_text("another searching")
    assert page.evaluate(seen) == pytest.approx([2, 6], abs=0.1)
    losses.locator(".u-over").dblclick()
    assert page.evaluate(seen) == [0, 8]


def test_a_name_of_one_long_word_keeps_the_page_as_wide_as_it_is(page, server, spec):
    url, client = server
    name = "x" * 200
    id = finished(client, {**spec, "name": name, "labels": {"y" * 60: "z" * 60}})
    for place in ("", f"#/jobs/{id}"):
        page.goto(f"{url}/{place}")
        expect(page.get_by_text(name).first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.parametrize("width", [320, 412])
def test_a_job_is_no_wider_than_a_phone(page, server, pipeline, spec, width):
    url, client = server
    pipeline.result["latency"] = {
        "workload": {"kind": "prefill", "rows": 4, "length": 30},
        "measured_dense_ms": 100.0, "measured_ms": 62.5, "measured_share": 0.625, "expected_share": 0.6,
    }  # fmt: skip
    page.set_viewport_size({"width": width, "height": 700})
    page.goto(f"{url}/#/jobs/{finished(client, spec)}")
    expect(section(page, "Files")).to_be_visible()
    expect(section(page, "Confirmed on fresh records")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_all_generations_are_recalled_past_retention(page, build, settings, pipeline, spec):
    pipeline.generations = 1001
    application = build(settings)
    with embedded(application) as client:
        id = finished(client, spec)
        application.store.cleanup.forget_events(timedelta(seconds=-1))
        page.goto(f"{client.connection.url}/#/jobs/{id}")

        expect(page.get_by_role("img", name=re.compile("^Fitness"))).to_have_accessible_name(
            re.compile("1001 points, the last at generation 1000")
        )


def test_a_key_that_is_revoked_ends_what_its_page_shows(page, serving, tmp_path, pipeline, spec, monkeypatch):
    monkeypatch.setattr("ranksieve.api.http.routes.events.KEEPALIVE_S", 0.1)
    settings = Settings(data_dir=tmp_path / "data", api_key="open sesame")
    with serving(settings) as (url, client):
        key = client.connection.request("POST", "/v1/keys", json={"owner": "admin", "scope": "read"})
        pipeline.go.clear()
        id = client.submit(spec)["id"]
        page.add_init_script(f"sessionStorage.setItem('ranksieve.key', '{key['secret']}')")
        page.goto(f"{url}/#/jobs/{id}")
        expect(section(page, "The search")).to_be_visible()

        client.connection.request("POST", f"/v1/keys/{key['id']}/revoke")

        expect(page.get_by_role("alert")).to_contain_text("mistyped, expired or revoked")
        expect(page.get_by_role("dialog", name="API key")).to_be_visible()
        assert id not in page.content()


def test_a_job_that_is_deleted_leaves_its_page(page, server, pipeline, spec):
    url, client = server
    pipeline.failure = InfrastructureError("the machine is at fault")
    id = finished(client, spec)
    page.goto(f"{url}/#/jobs/{id}")
    expect(page.get_by_role("heading", level=1)).to_have_text("snippets crashed")

    page.route("**/events?*", lambda route: route.abort())  # it is cancelled and deleted between two looks
    client.cancel(id)
    client.delete(id)
    page.unroute_all()

    expect(page.get_by_role("alert")).to_contain_text(f"no job '{id}'")


@pytest.mark.parametrize("below", ["", "/models"])
def test_requests_of_the_documentation_go_to_the_path_that_a_proxy_serves_it_below(page, server, below):
    url, _ = server
    # in place of a proxy, which takes its path away
    page.route(
        f"{url}/models/**", lambda route: route.continue_(url=route.request.url.replace("/models/", "/"))
    )
    page.goto(f"{url}{below}/docs/api")
    operation = page.locator("#operations-health-healthz")
    operation.get_by_role("button").first.click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()

    expect(operation.locator(".request-url")).to_have_text(f"Request URL{url}{below}/healthz")
    expect(operation.locator(".live-responses-table tbody .response-col_status")).to_have_text("200")
