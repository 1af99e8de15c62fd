"""Page of a job that has ended: its result, candidates and exports."""

import re
from datetime import timedelta
from xml.etree import ElementTree

import pytest
from browsing import finished, row, saved, section
from playwright.sync_api import expect

from ranksieve.api.cli.embedded import embedded


def test_succeeded_job(page, server, scored):
    url, client = server
    id = finished(client, scored)

    page.goto(url)
    page.get_by_role("link", name="snippets").click()

    expect(page).to_have_url(f"{url}/#/jobs/{id}")
    expect(page.get_by_role("heading", level=1)).to_have_text("snippets succeeded")
    result = section(page, "Result")
    expect(result).to_contain_text(
        "2.5× fewer block parameters, 1.7× smaller files, 2.2× faster, "
        "accuracy -0.7 points [-1.9, +0.5] on the test split"
    )
    expect(result).to_contain_text("loses at most 2 points, with 80 % confidence. The objective is met.")
    expect(row(result, "block parameters")).to_contain_text("400 (40.0 % kept)")
    expect(row(result, "accuracy, test")).to_contain_text("0.781 [0.755, 0.806], drop +0.70 [-0.50, +1.90]")
    expect(page.get_by_role("img", name="Size against loss")).to_be_visible()
    expect(section(page, "Files").get_by_role("link", name="tokenizer/vocab.txt")).to_be_visible()
    expect(section(page, "Events").get_by_role("listitem").first).to_contain_text("job.state state succeeded")
    with page.expect_download() as downloaded:
        section(page, "Files").get_by_role("link", name="config.json").click()
    assert downloaded.value.path().read_text() == '{"ranks": [1, 2]}'


def test_charts_and_tables_are_saved(page, server, scored):
    url, client = server
    formula = "=1+cmd|' /C calc'!A0"
    id = finished(client, {**scored, "name": formula})
    [found] = client.candidates(id, pareto=True)
    page.goto(f"{url}/#/jobs/{id}")
    expect(page.locator(".ranks")).to_be_visible()

    name, numbers = saved(page, "Size against loss as CSV")
    assert name == "Size against loss.csv"
    assert numbers.decode().splitlines() == [
        "kind,id,generation,kept_share,loss_nats,kl_nats,drop_points,drop_bound,drop_low,drop_high",
        f"candidate,{found['id']},0,0.41,0.04,0.05,0.8,1.6,,",
        "finalist,,,0.5,,0.04,-0.5,,-1.6,0.6",
        "exported finalist,,,0.4,,0.05,0.5,,-0.6,1.6",
        "reference,,,1,,,0,,,",
    ]
    name, picture = saved(page, "Best so far at the size being tried as PNG")
    assert name == "Best so far at the size being tried.png"
    assert picture.startswith(b"\x89PNG")
    name, figure = saved(page, "Size against loss as SVG")
    assert name == "Size against loss.svg"
    shown = ElementTree.fromstring(figure)
    texts = [text.text for text in shown.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Size against loss", "drop, points (↓ better)", "promised: at most 2 points", "exported"} <= {
        *texts
    }
    colours = {element.get(name) for element in shown.iter() for name in ("fill", "stroke")}
    assert all(re.fullmatch("none|#[0-9a-f]{6}", colour) for colour in colours if colour is not None)
    assert saved(page, "Ranks as CSV") == (
        "Ranks.csv",
        'layer,0,1,"kept, %"\r\nq_proj,16,·,75\r\n"kept, %",50,100,75\r\n'.encode(),
    )
    assert saved(page, "Finalists as CSV")[1].splitlines()[1] == b"50.0 %,-0.50,-1.60 to +0.60,"
    page.goto(url)
    assert saved(page, "Jobs as CSV")[1].splitlines()[1].decode().startswith(f"'{formula},succeeded")


def test_ranks_of_the_chosen_model(page, server, scored):
    url, client = server
    id = finished(client, scored)
    [found] = client.connection.request("GET", f"/v1/jobs/{id}/candidates?pareto=true")["candidates"]
    page.goto(f"{url}/#/jobs/{id}")
    models = section(page, "Models found")

    def cells():
        return row(models.get_by_role("table"), "q_proj").get_by_role("cell")

    expect(cells()).to_have_text(["16", "·", "75"])
    expect(cells().first).to_have_attribute("title", "q_proj of layer 0: rank 16, 50.0 % of its numbers")
    expect(models.locator(".ranks .most")).to_have_text("·")
    margin = row(models.get_by_role("table"), "kept, %").get_by_role("cell")
    expect(margin).to_have_text(["50", "100", "75"])
    expect(margin.first).to_have_attribute("title", "layer 0: 50.0 % of the numbers")
    expect(models.locator(".scale")).to_have_text(
        "Numbers kept: 0 %25 %50 %75 %100 % one of the tenth that keep most"
    )
    models.get_by_role("combobox", name="Model").select_option(str(found["id"]))
    expect(cells()).to_have_text(["16", "32", "75"])
    models.get_by_role("combobox", name="Model").select_option(label="the exported model")
    expect(cells()).to_have_text(["16", "·", "75"])


def test_late_answer_does_not_replace_newer_ranks(page, server, scored):
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

    expect(row(models.locator(".ranks"), "q_proj").get_by_role("cell")).to_have_text(["16", "·", "75"])


def test_job_without_matrices(page, server, scored, settings):
    url, client = server
    id = finished(client, scored)
    (settings.jobs_dir / id / "matrices.json").unlink()
    page.goto(f"{url}/#/jobs/{id}")

    expect(section(page, "Models found").get_by_text("has no matrices")).to_be_visible()
    expect(section(page, "Files").get_by_role("link", name="config.json")).to_be_visible()


def test_candidates_of_several_pages(page, server, scored):
    def answer(route):
        after = re.search(r"after=(\d+)", route.request.url)
        start = 0 if after is None else int(after[1])
        route.fulfill(json={"candidates": found[start : start + 1000]})

    url, client = server
    id = finished(client, scored)
    [one] = client.candidates(id, pareto=True)
    found = [
        {**one, "id": number + 1, "kept_share": 0.1 + number / 2000, "loss_nats": 1 - number / 2000}
        for number in range(1100)
    ]
    page.route("**/candidates?*", answer)
    page.goto(f"{url}/#/jobs/{id}")
    expect(page.get_by_role("img", name="Size against loss")).to_have_accessible_name(
        re.compile(r"1100 scorings; 2 finalists; promised: at most 2 points; exported: 40")
    )
    expect(
        section(page, "Models found").get_by_role("combobox", name="Model").locator("option")
    ).to_have_count(1101)


def test_export_another_size(page, server, scored):
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


def test_export_of_a_clicked_candidate(page, server, scored):
    url, client = server
    id = finished(client, scored)
    page.goto(url)
    page.get_by_role("link", name="snippets").click()
    models = section(page, "Models found")
    expect(models.locator(".ranks")).to_be_visible()
    expect(models.get_by_role("button", name="export this model")).to_have_count(0)

    models.locator("svg svg path[d*='a3.6']").click()  # the dot of the only candidate

    [found] = client.candidates(id, pareto=True)
    expect(models.get_by_role("combobox", name="Model")).to_have_value(str(found["id"]))
    expect(row(models.get_by_role("table"), "q_proj").get_by_role("cell")).to_have_text(["16", "32", "75"])
    expect(models).to_contain_text("loss 0.0400 nats, drop +0.80 points")
    models.get_by_role("button", name="export this model").click()
    expect(page.get_by_role("link", name="another size of this job")).to_be_visible()


def test_loss_in_nats_and_points_under_the_pointer(page, server, scored):
    url, client = server
    page.goto(f"{url}/#/jobs/{finished(client, scored)}")
    models = section(page, "Models found")
    chart = page.get_by_role("img", name="Size against loss")
    models.locator("svg svg path[d*='a3.6']").hover()
    expect(models.locator(".here")).to_contain_text(": 41.0 % kept, loss 0.0400 nats, drop +0.80 points")

    models.get_by_role("combobox", name="Loss as").select_option("nats")

    expect(chart).to_contain_text("loss, nats (↓ better)")
    expect(chart).not_to_contain_text("promised")


def test_states_of_exports(page, server, scored):
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


def test_result_of_an_export(page, server, pipeline, scored):
    url, client = server
    id = finished(client, scored)
    pipeline.result["export"] = {
        "job": id, "asked": {"share": 0.5}, "measured_on": ["search"], "search_examples": 8,
    }  # fmt: skip
    pipeline.result["promise_held"] = None
    pipeline.result["best"]["metric"] = {"search": 0.77}
    searched = {"drop_points": 0.8, "drop_low": None, "drop_high": None}
    pipeline.result["best"]["drop"] = {"search": searched}
    made = client.export(id, share=0.5)["id"]
    page.goto(f"{url}/#/jobs/{made}")

    expect(page.get_by_role("heading", level=1)).to_have_text("snippets succeeded")
    result = section(page, "Result")
    expect(result).to_contain_text("the best candidate that keeps at most 50.0 % of the parameters")
    expect(result).not_to_contain_text("loses at most")
    expect(row(result, "accuracy, search")).to_contain_text("0.7900.770, drop +0.80 points")
    ranks = section(page, "Models found").get_by_role("table").filter(has_text="q_proj")
    expect(row(ranks, "q_proj").get_by_role("cell")).to_have_text(["16", "·", "75"])


@pytest.mark.parametrize(
    ("objective", "shown"),
    [
        ({"kind": "max_drop", "points": 2.0, "confidence": 0.995}, "with 99.5 % confidence"),
        (
            {"kind": "target_bytes", "share": None, "size": 92_750_000},
            "the best model whose files take at most 92.75 MB.",
        ),
    ],
)
def test_objective(page, server, pipeline, spec, objective, shown):
    url, client = server
    pipeline.result["objective"] = objective
    page.goto(f"{url}/#/jobs/{finished(client, spec)}")
    expect(section(page, "Result")).to_contain_text(shown)
    expect(section(page, "Result")).to_contain_text("In brackets 95 % intervals.")
    confirmed = section(page, "Confirmed on fresh records")
    expect(confirmed.get_by_role("columnheader").nth(2)).to_have_text("95 % interval")
    expect(confirmed.locator("tbody tr").last).to_contain_text("exported")


def test_drops_from_a_model_with_help(page, server, pipeline, scored):
    url, client = server
    reference = {"metric": {"confirm": 0.785, "test": 0.8}, "interval": {}, "tuned": True, "blocks": [12, 30]}
    pipeline.result["reference"] = reference
    finished(client, scored)
    page.goto(url)
    page.get_by_role("link", name="snippets").click()

    result = section(page, "Result")
    expect(result).to_contain_text("[-1.9, +0.5] on the test split from the dense model with the same help")
    expect(row(result, "dense with the same help").get_by_role("cell").nth(1)).to_have_text("0.800")
    chart = page.get_by_role("img", name="Size against loss")
    expect(chart).to_contain_text("dense with 40 % of the blocks and the same help: reference of drops")
    expect(chart).to_contain_text("dense as it was given, test split: +1.20 points")


def test_perplexity(page, server, pipeline, spec):
    url, client = server
    spec["task"] = {"kind": "lm", "answer": "{{ text }}", "data": spec["task"]["data"]}
    pipeline.result["metric_name"] = "perplexity"
    id = finished(client, spec)
    page.goto(f"{url}/#/jobs/{id}")

    result = section(page, "Result")
    expect(result).to_contain_text(
        "the smallest model whose perplexity rises by at most 2 %, with 80 % confidence"
    )
    expect(result).to_contain_text("perplexity +0.7 % [-0.5, +1.9] on the test split")
    expect(row(result, "perplexity, test")).to_contain_text("drop +0.70 [-0.50, +1.90] % of perplexity")
    expect(section(page, "Confirmed on fresh records").get_by_role("columnheader")).to_have_text(
        ["kept", "drop, % of perplexity", "95 % interval", "outcome"]
    )
    expect(page.get_by_role("img", name="Size against loss")).to_have_accessible_name(
        re.compile(
            r"promised: at most 2 % of perplexity; exported: 40\.0 % kept, drop \+0\.50 % of perplexity$"
        )
    )


def test_latency(page, server, pipeline, spec):
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


def test_objective_not_met(page, server, pipeline, scored):
    url, client = server
    pipeline.result |= {"promise_held": False, "notes": ["8 records to confirm are too few"]}
    pipeline.result["best"]["left_out_params"] = 1024
    id = finished(client, scored)
    page.goto(f"{url}/#/jobs/{id}")

    result = section(page, "Result")
    expect(result).to_contain_text("The objective is not met.")
    expect(result.get_by_text("8 records to confirm are too few.", exact=True)).to_be_visible()
    expect(result).to_contain_text("1,024 parameters that the search counted are left out")


def test_job_past_retention(page, build, settings, pipeline, scored):
    application = build(settings)
    with embedded(application) as client:
        tested = zip(pipeline.result["finalists"], (True, False), strict=True)
        finalists = [{**one, "risk": 0.1, "passed": passed} for one, passed in tested]
        pipeline.result["finalists"] = finalists
        id = finished(client, scored)
        application.store.cleanup.forget_events(timedelta(seconds=-1))
        page.goto(f"{client.connection.url}/#/jobs/{id}")

        expect(page.get_by_role("alert")).to_have_text("The events of this job are past retention.")
        expect(page.get_by_role("img", name="Size against loss")).to_be_visible()
        expect(section(page, "Confirmed on fresh records").locator("tbody tr")).to_have_text(
            ["50.0 %-0.50-1.60 to +0.60passed", "40.0 %+0.50-0.60 to +1.60not passed, exported"]
        )


def test_generations_past_retention(page, build, settings, pipeline, spec):
    pipeline.generations = 1001
    application = build(settings)
    with embedded(application) as client:
        id = finished(client, spec)
        application.store.cleanup.forget_events(timedelta(seconds=-1))
        page.goto(f"{client.connection.url}/#/jobs/{id}")

        expect(page.get_by_role("img", name="Best so far")).to_have_accessible_name(
            "Best so far at the size being tried. 40 % held: generations 0 to 1000"
        )


def test_failed_job_and_missing_job(page, server, pipeline, spec):
    url, client = server
    pipeline.failure = ValueError("a fault of ours")
    finished(client, spec)

    page.goto(url)
    expect(page.get_by_role("cell", name="unexpected ValueError")).to_be_visible()
    page.get_by_role("link", name="snippets").click()
    expect(page.locator(".problem").first).to_contain_text("unexpected ValueError")
    page.goto(f"{url}/#/jobs/00000000")
    expect(page.get_by_role("alert")).to_contain_text("00000000")


def test_names_are_no_markup(page, server, spec):
    url, client = server
    hostile = "<img src=x onerror=alert(1)>"
    id = finished(client, {**spec, "name": hostile, "labels": {hostile: hostile}})

    page.goto(url)
    page.get_by_role("link", name=hostile).click()

    expect(page.get_by_role("heading", level=1)).to_have_text(f"{hostile} succeeded")
    expect(page.get_by_text(f"{hostile}: {hostile}")).to_be_visible()
    assert page.locator("main img").count() == 0
    assert client.job(id)["name"] == hostile
