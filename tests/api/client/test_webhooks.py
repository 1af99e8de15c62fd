"""The client's methods about webhooks, against the real application."""

import pytest

from ranksieve.api.client.connection import ApiError
from ranksieve.service.webhooks.outcomes import Outcome

URL = "https://hooks.example.com/"


def test_the_life_of_a_webhook(client, endpoint):
    made = client.webhooks.create(URL, ["failed"])
    secret = made.pop("secret")

    assert client.webhooks.all() == [made]
    assert client.webhooks.get(made["id"]) == made
    assert client.webhooks.change(made["id"], states=["paused"])["states"] == ["paused"]
    assert client.webhooks.rotate(made["id"])["secret"] != secret
    delivered = client.webhooks.test(made["id"])
    assert delivered["state"] == "delivered"
    assert client.webhooks.deliveries(made["id"]) == [delivered]
    assert client.webhooks.deliveries(made["id"], after=delivered["id"]) == []
    client.webhooks.delete(made["id"])
    with pytest.raises(ApiError, match="404"):
        client.webhooks.get(made["id"])


def test_a_test_that_fails_is_told_with_its_reason(client, endpoint):
    made = client.webhooks.create(URL)
    endpoint.outcomes.append(Outcome(error="no answer within 10 s"))

    delivery = client.webhooks.test(made["id"])

    assert (delivery["state"], delivery["error"]) == ("failed", "no answer within 10 s")


def test_a_url_that_is_refused_is_told_with_its_field(client):
    with pytest.raises(ApiError) as refused:
        client.webhooks.create("https://10.0.0.1/")

    assert [error["field"] for error in refused.value.errors] == ["url"]
