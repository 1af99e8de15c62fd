"""Generations and candidates over REST."""

import json

from ranksieve.api.http.schemas.jobs import CandidateBody
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
    long = ("genome", "ranks")
    brief = [{name: one[name] for name in one if name not in long} for one in (scored, failed)]
    assert http.get(url, params={"genomes": False}).json()["candidates"] == brief
    assert http.get(url, params={"limit": 1}).json()["candidates"] == [scored]
    assert http.get(url, params={"generation": 1}).json()["candidates"] == []
    assert http.get(url, params={"after": scored["id"]}).json()["candidates"] == [failed]
    assert client.candidates(done["id"], after=failed["id"]) == []
    assert http.get(url, params={"after": 999_999}).status_code == 404


def test_the_front_of_a_search(http, client, done):
    url = f"/v1/jobs/{done['id']}/candidates"

    [scored] = http.get(url, params={"pareto": True}).json()["candidates"]
    assert scored["loss_nats"] is not None
    assert client.candidates(done["id"], pareto=True) == [scored]
    response = http.get(url, params={"pareto": True, "after": 1})
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "after")


def test_numbers_of_candidates_have_six_significant_digits():
    exact = {**CANDIDATE, "id": 1, "kl_nats": 0.00123456789, "loss_nats": 1 / 3, "drop_points": -12.3456789}

    told = json.loads(CandidateBody(**exact).model_dump_json())

    assert (told["kl_nats"], told["loss_nats"], told["drop_points"]) == (0.00123457, 0.333333, -12.3457)
