"""Files of the page, and the pages of the documentation."""

import pytest
from playwright.sync_api import expect


@pytest.mark.parametrize("path", ["/", "/page/main.js", "/page/charts/chart.js"])
def test_headers_of_files(shared, path):
    response = shared.get(path)

    assert response.status_code == 200
    assert response.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert response.headers["cache-control"] == "no-cache"
    assert shared.head(path).headers["content-length"] == response.headers["content-length"]
    assert shared.get(path, headers={"If-None-Match": response.headers["etag"]}).status_code == 304


@pytest.mark.parametrize(
    "path", ["/page/", "/page/../__init__.py", "/page/%2e%2e/__init__.py", "/page/none.js"]
)
def test_no_other_files(shared, path):
    assert shared.get(path).status_code == 404


def test_documentation_below_a_path(page, server):
    url, _ = server
    # in place of a proxy, which takes its path away
    page.route(
        f"{url}/models/**", lambda route: route.continue_(url=route.request.url.replace("/models/", "/"))
    )
    page.goto(f"{url}/models/docs/api")
    operation = page.locator("#operations-health-healthz")
    operation.get_by_role("button").first.click()
    operation.get_by_role("button", name="Try it out").click()
    operation.get_by_role("button", name="Execute").click()

    expect(operation.locator(".request-url")).to_have_text(f"Request URL{url}/models/healthz")
    expect(operation.locator(".live-responses-table tbody .response-col_status")).to_have_text("200")
