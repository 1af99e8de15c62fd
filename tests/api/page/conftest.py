"""A browser, Debian's Chromium, on a server with fakes behind it."""

from contextlib import contextmanager

import pytest
from playwright.sync_api import expect, sync_playwright

from ranksieve.api.cli.embedded import embedded

expect.set_options(timeout=60_000)


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


@pytest.fixture
def scored(spec):
    """A job file whose candidate is scored on all its search examples, and so is on the front."""
    spec["task"]["data"]["sizes"] = {"search": 8}
    return spec
