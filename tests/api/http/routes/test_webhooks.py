"""Webhooks over REST, to an endpoint that answers as it is told."""

import pytest
from standardwebhooks import Webhook as Receiver
from starlette.testclient import TestClient

from ranksieve.api.http.app import create_app
from ranksieve.api.http.schemas.webhooks import JobMessage, WebhookTest
from ranksieve.service.server.settings import Settings
from ranksieve.service.webhooks.outcomes import Outcome

URL = "https://hooks.example.com/t0ken"


@pytest.fixture
def made(shared):
    """A webhook of the shared server, until the test ends."""
    answer = shared.post("/v1/webhooks", json={"url": URL})
    assert answer.status_code == 201
    webhook = answer.json()
    assert answer.headers["location"] == f"/v1/webhooks/{webhook['id']}"
    yield webhook
    shared.delete(f"/v1/webhooks/{webhook['id']}")


def test_a_webhook_is_made_shown_changed_and_ended(shared):
    made = shared.post("/v1/webhooks", json={"url": URL}).json()
    secret = made.pop("secret")
    path = f"/v1/webhooks/{made['id']}"

    assert secret.startswith("whsec_")
    assert made["states"] == ["succeeded", "failed", "crashed", "cancelled"]
    assert (made["owner"], made["enabled"], made["disabled_reason"]) == ("admin", True, None)
    assert shared.get(path).json() == made
    assert shared.get("/v1/webhooks").json() == {"webhooks": [made]}

    changed = shared.patch(path, json={"states": ["paused"], "enabled": False}).json()
    assert changed == {**made, "states": ["paused"], "enabled": False}
    assert shared.patch(path, json={}).json() == changed
    assert shared.post(f"{path}/test").status_code == 409

    assert shared.delete(path).status_code == 204
    assert shared.get(path).status_code == 404
    assert shared.delete(path).status_code == 404


def test_a_job_s_end_is_delivered_and_signed(http, endpoint, spec):
    made = http.post("/v1/webhooks", json={"url": URL}).json()
    job = http.post("/v1/jobs", json=spec).json()
    endpoint.wait_for(1)

    [(url, headers, body)] = endpoint.received
    event = Receiver(made["secret"]).verify(body, headers)
    assert url == URL
    assert (event["type"], event["data"]["id"]) == ("job.succeeded", job["id"])
    message = JobMessage.model_validate(event, extra="forbid")
    assert message.data.finished_at is not None
    assert message.data.model_dump(mode="json") == event["data"]

    http.delete(f"/v1/jobs/{job['id']}")
    [delivery] = endpoint.settled(http, made["id"])
    assert (delivery["id"], delivery["job_id"]) == (headers["webhook-id"], job["id"])
    assert (delivery["state"], delivery["attempts"], delivery["status"]) == ("delivered", 1, 200)
    assert 'ranksieve_webhook_attempts_total{outcome="delivered"} 1.0' in http.get("/metrics").text
    assert http.get(f"/v1/webhooks/{made['id']}").json()["delivered_at"] is not None


def test_a_test_is_delivered_and_a_rotated_secret_signs_it(shared, shared_endpoint, made):
    path = f"/v1/webhooks/{made['id']}"
    rotated = shared.post(f"{path}/rotate", json={"grace_hours": 1}).json()
    sent = shared.post(f"{path}/test")
    assert (sent.status_code, sent.json()["type"]) == (202, "webhook.test")
    shared_endpoint.settled(shared, made["id"])

    [(headers, body)] = [
        (headers, body) for _, headers, body in shared_endpoint.received if made["id"] in body
    ]
    assert rotated["secret"] != made["secret"]
    for secret in (made["secret"], rotated["secret"]):
        WebhookTest.model_validate(Receiver(secret).verify(body, headers), extra="forbid")


def test_a_url_that_is_gone_disables_its_webhook_until_it_is_enabled(http, endpoint):
    path = f"/v1/webhooks/{http.post('/v1/webhooks', json={'url': URL}).json()['id']}"
    endpoint.outcomes.append(Outcome.answered(410))
    http.post(f"{path}/test")
    [delivery] = endpoint.settled(http, path.rpartition("/")[2])

    assert (delivery["state"], delivery["status"], delivery["error"]) == ("failed", 410, "answered 410")
    assert http.get(path).json()["disabled_reason"] == "the URL answered 410 Gone"
    enabled = http.patch(path, json={"enabled": True}).json()
    assert (enabled["enabled"], enabled["disabled_reason"]) == (True, None)


def test_deliveries_come_in_pages(shared, shared_endpoint, made):
    path = f"/v1/webhooks/{made['id']}"
    for _ in range(3):
        shared.post(f"{path}/test")
        shared_endpoint.settled(shared, made["id"])

    first = shared.get(f"{path}/deliveries?limit=2").json()
    second = shared.get(f"{path}/deliveries", params={"limit": 2, "after": first["next"]}).json()

    assert (len(first["deliveries"]), len(second["deliveries"]), second["next"]) == (2, 1, None)
    assert shared.get(f"{path}/deliveries?after=a-b").status_code == 422
    assert shared.get("/v1/webhooks/0/deliveries").status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": "http://127.0.0.1/"}, "url"),
        ({"url": "https://10.0.0.1/"}, "url"),
        ({"url": "https://169.254.169.254/latest/meta-data"}, "url"),
        ({"url": "https://me:s3cret@hooks.example.com/"}, "url"),
        ({"url": "https://hooks.example.com/\0"}, "url"),
        ({"url": "https://hooks.example.com/" + "x" * 2000}, "url"),
        ({"url": URL, "states": []}, "states"),
        ({"url": URL, "states": ["done"]}, "states.0"),
        ({"url": URL, "enabled": 1}, "enabled"),
        ({"url": URL, "secret": "whsec_mine"}, "secret"),
    ],
)
def test_a_wrong_webhook_is_refused_with_its_field(shared, made, body, field):
    answers = [shared.post("/v1/webhooks", json=body)]
    if body:
        answers.append(shared.patch(f"/v1/webhooks/{made['id']}", json=body))

    for answer in answers:
        assert answer.status_code == 422
        assert [error["field"] for error in answer.json()["errors"]] == [field]
        assert "s3cret" not in answer.text


def test_one_owner_has_no_more_than_the_server_keeps(build, tmp_path):
    settings = Settings(data_dir=tmp_path / "data", webhooks=1, webhook_hosts=["localhost"])
    with TestClient(create_app(build(settings)), base_url="http://127.0.0.1") as http:
        assert http.post("/v1/webhooks", json={"url": "http://localhost:8000/"}).status_code == 201
        refused = http.post("/v1/webhooks", json={"url": URL})
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
        assert http.get("/v1/capabilities").json()["limits"]["webhooks"] == 1
