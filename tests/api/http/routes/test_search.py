"""Generations and candidates over REST."""

import json

from ranksieve.api.http.schemas.search import CandidatePage
from tests.api.support.documents import CANDIDATE


def test_generations_after_a_number(shared, shared_job):
    url = f"/v1/jobs/{shared_job['id']}/generations"

    [record] = shared.get(url).json()["generations"]

    assert record["generation"] == 0
    assert record["kept_share"] == 0.41
    assert shared.get(url, params={"after": 0}).json() == {"generations": []}


def test_candidates_by_page_and_generation(http, client, done):
    url = f"/v1/jobs/{done['id']}/candidates"

    scored, failed = http.get(url).json()["candidates"]

    assert scored["genome"] == [1, 2]
    assert failed["failure"] == "not finite"
    assert http.get(url, params={"limit": 1}).json()["candidates"] == [scored]
    assert http.get(url, params={"generation": 1}).json()["candidates"] == []
    assert http.get(url, params={"after": scored["id"]}).json()["candidates"] == [failed]
    assert client.candidates(done["id"], after=failed["id"]) == []
    assert http.get(url, params={"after": 999_999}).status_code == 404


def test_candidates_have_the_fields_that_were_asked_for(http, client, done):
    url = f"/v1/jobs/{done['id']}/candidates"
    whole = client.candidates(done["id"])
    assert [list(one) for one in whole] == [["id", *CANDIDATE]] * 2

    brief = [{name: one[name] for name in ("kept_share", "failure")} for one in whole]
    assert client.candidates(done["id"], fields=["failure", "kept_share", "failure"]) == brief
    assert client.candidates(done["id"], fields=["metric"], pareto=True) == [{"metric": 0.78}]

    response = http.get(url, params={"fields": ["id", "gnome"]})
    assert response.status_code == 422
    detail = f"unknown field; expected one of {', '.join(whole[0])}; got 'gnome'"
    assert response.json()["errors"] == [{"field": "fields.1", "detail": detail}]


def test_the_front_of_a_search(http, client, done):
    url = f"/v1/jobs/{done['id']}/candidates"

    [scored] = http.get(url, params={"pareto": True}).json()["candidates"]
    assert scored["loss_nats"] is not None
    assert client.candidates(done["id"], pareto=True) == [scored]
    response = http.get(url, params={"pareto": True, "after": 1})
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "after")


def test_numbers_of_candidates_have_six_significant_digits():
    exact = {**CANDIDATE, "id": 1, "kl_nats": 0.00123456789, "loss_nats": 1 / 3, "drop_points": -12.3456789}

    [told] = json.loads(CandidatePage(candidates=[exact]).model_dump_json())["candidates"]

    assert (told["kl_nats"], told["loss_nats"], told["drop_points"]) == (0.00123457, 0.333333, -12.3457)
