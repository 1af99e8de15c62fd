"""Page of a running job: events as they arrive, broken connections, and requests."""

from browsing import finished, in_mid_search, row, section
from playwright.sync_api import expect

from ranksieve.api.cli.embedded import embedded
from ranksieve.search.errors import InfrastructureError


def test_running_job_is_followed_to_its_result(page, server, pipeline, scored):
    url, client = server
    [id] = in_mid_search(pipeline, client, scored)
    page.goto(f"{url}/#/jobs/{id}")
    expect(page.get_by_role("heading", level=1)).to_have_text("snippets searching")
    expect(section(page, "Result")).to_be_hidden()
    stages = page.get_by_role("list", name="Stages")
    expect(stages.get_by_role("listitem")).to_have_text(
        ["queued ✓", "validating ✓", "preparing ✓", "searching", "finalizing"]
    )
    choice = section(page, "Models found").get_by_role("combobox", name="Model")
    expect(choice).to_contain_text("candidate")

    pipeline.go.set()

    expect(page.get_by_role("heading", level=1)).to_have_text("snippets succeeded")
    expect(section(page, "Result")).to_be_visible()
    expect(page.get_by_role("button", name="pause")).to_have_count(0)
    expect(stages).to_have_count(0)
    expect(choice).to_have_value("")  # the exported model
    cells = row(section(page, "Models found").get_by_role("table"), "q_proj").get_by_role("cell")
    expect(cells).to_have_text(["16", "·", "75"])


def test_broken_stream_leaves_no_gap(page, server, pipeline, spec):
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
    expect(section(page, "Models found")).to_be_visible()
    pipeline.go.set()

    expect(page.get_by_role("heading", level=1)).to_have_text("snippets succeeded")
    assert len(broken) == 2
    listed = section(page, "Events").get_by_role("listitem")
    events = client.connection.request("GET", f"/v1/jobs/{id}/events")["events"]
    expect(listed).to_have_count(sum(event["type"] != "phase.progress" for event in events))


def test_hidden_tab_keeps_no_stream(page, build, settings, pipeline, spec):
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
        expect(section(page, "Events").get_by_role("listitem").first).to_be_visible()  # from the stream
        with page.expect_event("requestfailed", lambda request: "/events?" in request.url):
            show(True)
        streams = []
        page.on("request", lambda request: streams.append(request.url) if "/events?" in request.url else None)
        pipeline.go.set()
        for _ in client.events(id):
            pass
        assert streams == []

        with page.expect_event("request", lambda request: "/events?" in request.url):
            show(False)
        expect(page.get_by_role("heading", level=1)).to_have_text("snippets succeeded")


def test_silent_stream(page, server, pipeline, spec):
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


def test_busy_server_is_asked_again(page, server, pipeline, spec):
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


def test_error_ends_the_stream(page, server, pipeline, spec):
    url, client = server
    [id] = in_mid_search(pipeline, client, spec)
    page.goto(f"{url}/#/jobs/{id}")
    expect(page.get_by_role("heading", level=1)).to_have_text("snippets searching")

    page.route(f"**/jobs/{id}", lambda route: route.fulfill(status=403, json={"detail": "not for you"}))
    with page.expect_event("requestfailed", lambda request: "/events?" in request.url):
        client.change(id, {"name": "another"})

    expect(page.get_by_role("alert")).to_have_text("not for you")


def test_crashed_job_resumed_elsewhere(page, build, settings, pipeline, spec):
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


def test_deleted_job(page, server, pipeline, spec):
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


def test_stop_and_cancel(page, server, pipeline, spec):
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


def test_pause_and_resume(page, server, pipeline, spec):
    url, client = server
    first, second = in_mid_search(pipeline, client, spec, jobs=2)

    page.goto(f"{url}/#/jobs/{second}")
    page.get_by_role("button", name="pause").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("snippets paused")
    expect(page.get_by_role("button", name="resume")).to_be_focused()  # it stands where pause was
    page.get_by_role("button", name="resume").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("snippets queued")
    pipeline.go.set()

    expect(page.get_by_role("heading", level=1)).to_have_text("snippets succeeded")
    assert client.job(first)["state"] == "succeeded"


def test_buttons_of_a_state(page, server, pipeline, spec):
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
