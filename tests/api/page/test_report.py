"""Report of a job: its page in one file, without a server."""

import re

from browsing import finished, row, section
from playwright.sync_api import expect
from typer.testing import CliRunner

from ranksieve.api.cli import main


def test_report_needs_no_server(page, server, tmp_path, scored):
    url, client = server
    hostile = "</script><img src=x onerror=alert(1)>"
    id = finished(client, {**scored, "name": hostile})
    file = tmp_path / "report.html"

    done = CliRunner().invoke(main.app, ["report", id, "-o", str(file), "--url", url])

    assert (done.exit_code, done.stdout) == (0, f"{file}\n")
    assert re.findall(r"https?://(?!www\.w3\.org|github\.com)[^\s\"']+", file.read_text()) == []
    page.goto(file.as_uri())
    expect(page.get_by_role("heading", level=1)).to_have_text(f"{hostile} succeeded")
    expect(section(page, "Result")).to_contain_text("2.5× fewer block parameters")
    expect(page.locator("[role=img]")).to_have_count(2)
    models = section(page, "Models found")
    expect(row(models.get_by_role("table"), "q_proj").get_by_role("cell")).to_have_text(["16", "·", "75"])
    models.get_by_role("combobox", name="Model").select_option(index=1)
    expect(row(models.get_by_role("table"), "q_proj").get_by_role("cell")).to_have_text(["16", "32", "75"])
    expect(section(page, "Events").get_by_role("listitem").first).to_contain_text("job.state state succeeded")
    expect(page.get_by_role("button", name=re.compile("export|resume|pause"))).to_have_count(0)
    expect(section(page, "Files").get_by_role("link")).to_have_count(0)
    assert page.locator("main img").count() == 0
