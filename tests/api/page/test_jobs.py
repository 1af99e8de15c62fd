"""List of jobs, and the API key that all requests are sent with."""

import re

from browsing import finished, in_mid_search, section
from playwright.sync_api import expect

from ranksieve.api.client.client import Client
from ranksieve.service.server.settings import Settings


def test_states_and_pages(page, server, pipeline, spec):
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


def test_link_to_a_list_and_its_columns(page, server, pipeline, spec):
    url, client = server
    finished(client, {**spec, "name": "the <i>first</i>"})
    pipeline.searching.clear()
    in_mid_search(pipeline, client, {**spec, "name": "under way"})

    page.goto(url)
    heads = page.get_by_role("columnheader")
    expect(heads).to_have_text(["job", "state", "kept", "drop", "objective", "took", "owner", "created"])
    page.get_by_label("Search").fill("FIRST</i>")
    page.get_by_label("Search").press("Enter")
    expect(page.locator("tbody tr")).to_have_text(
        [re.compile(r"^the <i>first</i>succeeded40\.0 %\+0\.70 pointsmet0 sadmin")]
    )
    assert page.url == f"{url}/#/?search=FIRST%3C%2Fi%3E"
    page.get_by_label("State").select_option("searching")
    expect(page.get_by_text("No such jobs.")).to_be_visible()

    page.goto(f"{url}/#/?state=searching&search=under")
    expect(page.get_by_label("Search")).to_have_value("under")
    expect(page.get_by_label("State")).to_have_value("searching")
    expect(page.locator("tbody tr")).to_contain_text(["under way"])


def test_late_answer_does_not_replace_a_newer_list(page, server, pipeline, spec):
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


def test_key_is_kept_for_the_tab(page, serving, tmp_path, scored):
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


def test_enter_and_escape_in_the_dialog(page, serving, tmp_path, scored):
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


def test_refused_and_revoked_key(page, serving, tmp_path, pipeline, spec, monkeypatch):
    monkeypatch.setattr("ranksieve.api.http.routes.events.KEEPALIVE_S", 0.1)
    settings = Settings(data_dir=tmp_path / "data", api_key="open sesame")
    with serving(settings) as (url, client):
        submit, key = (
            client.connection.request("POST", "/v1/keys", json={"owner": "alice", "scope": scope})
            for scope in ("submit", "read")
        )
        pipeline.go.clear()
        with Client(url, submit["secret"]) as alice:
            id = alice.submit(spec)["id"]
        page.add_init_script(f"sessionStorage.setItem('ranksieve.key', '{key['secret']}')")
        page.goto(f"{url}/#/jobs/{id}")
        expect(section(page, "Models found")).to_be_visible()
        page.get_by_role("button", name="pause").click()
        expect(page.get_by_role("alert")).to_contain_text("scope")

        client.connection.request("POST", f"/v1/keys/{key['id']}/revoke")

        expect(page.get_by_role("alert")).to_contain_text("mistyped, expired or revoked")
        expect(page.get_by_role("dialog", name="API key")).to_be_visible()
        assert id not in page.content()
