"""Form for a new job: what it starts from, what is wrong with it, and what comes of it."""

import json
import re

import pytest
from browsing import finished, section
from playwright.sync_api import expect

from ranksieve.search.errors import InputError
from ranksieve.service.server.settings import Settings


@pytest.fixture
def text(page):
    return page.get_by_role("textbox", name="Job file")


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def test_example_is_checked_and_submitted(page, server, text):
    url, client = server
    page.goto(url)
    page.get_by_role("link", name="Submit").click()
    expect(text).to_have_value(
        re.compile('^name: "choice"\nmodel:\n  hub: "HuggingFaceTB/.*\ntask:\n  kind: "choice"')
    )

    button(page, "Check").click()
    estimate = section(page, "Estimate")
    expect(estimate.get_by_role("row", name="in all")).to_have_text("in all45 s to 3 min 20 s2.5 GB700.0 MB")
    expect(estimate.get_by_role("listitem")).to_have_text(["needs 20.0 GB of memory"])
    assert client.jobs() == []

    button(page, "Submit").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("choice succeeded")
    [job] = client.jobs()
    assert job["name"] == "choice"


def test_errors_are_beside_their_lines(page, server, preflight, text):
    url, client = server
    page.goto(f"{url}/#/submit")
    expect(text).to_have_value(re.compile("task:"))
    text.fill("model: {path: m}\ntask:\n  kind: choise\n  answer: <b>1</b>\n  data: {}\nmodle: 1\n")
    button(page, "Check").click()

    expect(page.get_by_role("alert")).to_have_text("3 errors in the job file.")
    faults = page.locator(".faults li")
    expect(faults.nth(0)).to_contain_text("line 3  kind: choisetask.kind: Input should be 'choice'")
    expect(faults.nth(2)).to_contain_text("line 6modle: 1modle: unknown field")
    expect(page.locator(".lines .wrong")).to_have_text(["3\n", "5\n", "6\n"])
    button(page, "line 6").click()
    expect(text).to_be_focused()
    assert page.evaluate("document.activeElement.selectionStart") == text.input_value().index("modle")

    text.fill("model: [")
    expect(faults).to_have_count(0)
    button(page, "Submit").click()
    expect(faults).to_have_text([re.compile(r"^line 1model: \[while parsing a flow node")])
    preflight.error = InputError("model.path", "no such folder")
    text.fill("model: {path: m}\ntask: {kind: lm, answer: a, data: {source: {path: a.jsonl}}}\n")
    button(page, "Check").click()
    expect(faults).to_have_text([re.compile("^line 1.*model.path: no such folder$")])
    assert client.jobs() == []


def test_job_like_another_and_a_fork(page, server, scored, text):
    url, client = server
    id = finished(client, {**scored, "labels": {"team": "nlp: #"}})
    page.goto(f"{url}/#/jobs/{id}")
    page.get_by_role("link", name="submit one like it").click()
    expect(text).to_have_value(re.compile("calibration: 256"))
    button(page, "Submit").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("snippets succeeded")
    again, first = client.jobs()
    assert client.job(again["id"])["spec"] == client.job(id)["spec"]
    assert again["id"] != first["id"]

    page.goto(f"{url}/#/submit")
    expect(page.get_by_label("as a fork")).to_be_hidden()
    page.get_by_label("Start from").select_option(id)
    page.get_by_label("as a fork").check()
    button(page, "Fill in").click()
    expect(text).to_have_value(re.compile(f'parent:\n  job: "{id}"'))
    button(page, "Submit").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("snippets succeeded")
    fork = client.job(client.jobs()[0]["id"])["spec"]
    assert (fork["parent"], len(fork["search"]["seeds"])) == ({"job": id}, 1)

    page.get_by_role("link", name="submit one like it").click()  # a fork's seeds are its own already
    expect(text).to_have_value(re.compile("seeds:"))
    button(page, "Submit").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("snippets succeeded")
    last = client.job(client.jobs()[0]["id"])["spec"]
    assert (last["parent"], last["search"]) == (None, fork["search"])


def test_submission_that_breaks_makes_one_job(page, server, text, spec):
    url, client = server
    page.goto(f"{url}/#/submit")
    expect(text).to_have_value(re.compile("task:"))
    text.fill(json.dumps(spec))
    names = []

    def break_once(route):
        names.append(route.request.headers["idempotency-key"])
        if len(names) == 1:
            route.fetch()  # the server has it, but its answer is lost
            route.abort()
        else:
            route.continue_()

    page.route("**/v1/jobs", break_once)
    button(page, "Submit").click()
    expect(page.get_by_role("alert")).not_to_be_empty()
    button(page, "Submit").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile("^snippets"))

    assert names[0] == names[1]
    assert len(client.jobs()) == 1


def test_command_has_no_key_and_drafts_stay(page, serving, tmp_path, text):
    settings = Settings(data_dir=tmp_path / "data", api_key="open sesame")
    with serving(settings) as (url, _):
        page.goto(f"{url}/#/submit")
        page.get_by_label("API key").last.fill("open sesame")
        page.get_by_role("button", name="Use").click()
        expect(text).to_have_value(re.compile("task:"))
        command = page.get_by_label("Command")
        expect(command).to_contain_text(f"curl {url}/v1/jobs")
        expect(command).to_contain_text('"Authorization: Bearer $RANKSIEVE_API_KEY"')
        assert "sesame" not in page.content()

        text.fill("name: half")
        page.get_by_role("link", name="ranksieve").click()
        page.get_by_role("link", name="Submit").click()
        expect(text).to_have_value("name: half")
        page.evaluate("sessionStorage.setItem('ranksieve.key', 'none')")
        button(page, "Check").click()
        expect(page.get_by_role("alert")).to_contain_text("unknown API key")
        page.get_by_role("button", name="API key").click()
        page.get_by_label("API key").last.fill("open sesame")
        page.get_by_role("button", name="Use").click()
        expect(text).to_have_value("name: half")


def test_models_of_the_server(page, server, text):
    url, _ = server
    models = [
        {
            "model": {"path": "tiny's"},
            "location": None,
            "architecture": "<b>Llama",
            "weight_bytes": 3_000_000,
        },
    ]
    page.route("**/v1/models", lambda route: route.fulfill(json={"models": models, "complete": True}))
    page.goto(f"{url}/#/submit")
    page.get_by_label("Model", exact=True).select_option(label="tiny's, <b>Llama, 3.0 MB")

    expect(text).to_have_value(re.compile('^name: "choice"\nmodel:\n  path: "tiny\'s"\ntask:\n'))


def test_dropped_and_opened_files(page, server, tmp_path, text):
    url, _ = server
    page.goto(f"{url}/#/submit")
    expect(text).to_have_value(re.compile("task:"))
    for name, content in (("job.yaml", "name: opened"), ("large.yaml", "#" * 1_000_001)):
        (tmp_path / name).write_text(content)
        page.get_by_label("Open a file").set_input_files(tmp_path / name)
        expect(text).to_have_value("name: opened")
    expect(page.get_by_role("alert")).to_contain_text("large.yaml has 1000001 bytes")

    dropped = page.evaluate_handle(
        "() => { const data = new DataTransfer(); data.items.add(new File(['name: dropped'], 'a.yaml')); return data; }"
    )
    text.dispatch_event("drop", {"dataTransfer": dropped})
    expect(text).to_have_value("name: dropped")


FILES = {
    "name: a\nmodel: tiny\ntask: b\n": 'name: a\nmodel:\n  path: "x"\ntask: b\n',
    "model:\n  hub: a\n\n  revision: b\ntask: c": 'model:\n  path: "x"\ntask: c',
    "task: c\nmodel:\n  hub: a": 'task: c\nmodel:\n  path: "x"\n',
    "task: {model: a}\n": 'model:\n  path: "x"\ntask: {model: a}\n',
    '{"task": 1, "model": 2}': '{\n  "task": 1,\n  "model": {\n    "path": "x"\n  }\n}',
}


def test_model_is_replaced_in_any_file(page, server):
    url, _ = server
    page.goto(url)
    made = page.evaluate(
        """async (files) => {
            const { withModel } = await import("/page/submit/yaml.js");
            return files.map((one) => withModel(one, { path: "x" }));
        }""",
        list(FILES),
    )
    assert made == list(FILES.values())


def test_yaml_of_any_job_is_read_as_it_was(page, server, spec):
    url, client = server
    spec["name"] = "on: {{ a }} # \U0001f600"
    spec["labels"] = {"true": "no", "a b": "'\"\\", "1": "1e3", "null": "~"}
    spec["task"]["prompt"] = "a\u2028b\x85c\ufeff {{ text }}\n\ttab"
    spec["search"] = {"seeds": [{"ranks": [1, -1]}, {"ranks": [2, 3]}], "constraints": []}
    spec["objective"] = {"kind": "max_drop", "points": 0.5, "confidence": 0.8}
    page.goto(url)
    written = page.evaluate("spec => import('/page/submit/yaml.js').then(({ yaml }) => yaml(spec))", spec)
    answer = client.connection.request(
        "POST", "/v1/jobs", content=written.encode(), headers={"Content-Type": "application/yaml"}
    )

    assert answer["spec"] == client.submit(spec)["spec"]
