"""`ranksieve webhooks`."""

from standardwebhooks import Webhook as Receiver

from ranksieve.service.webhooks.outcomes import Outcome


def test_life_of_a_webhook(ranksieve, http, endpoint):
    id, secret = ranksieve(
        "webhooks", "create", "https://hooks.example.com/", "--state", "failed"
    ).stdout.split()
    assert secret.startswith("whsec_")
    listed = ranksieve("webhooks", "list").stdout
    assert all(text in listed for text in (id, "hooks.example.com", "failed", "yes", "never"))

    tested = ranksieve("webhooks", "test", id)
    assert (tested.exit_code, tested.stdout.split()[1]) == (0, "delivered")
    [(_, headers, body)] = endpoint.received
    assert Receiver(secret).verify(body, headers)["type"] == "webhook.test"

    rotated = ranksieve("webhooks", "rotate", id, "--grace-hours", "1").stdout.strip()
    assert rotated.startswith("whsec_")
    assert rotated != secret
    assert ranksieve("webhooks", "delete", id).stdout == f"{id} deleted\n"
    assert http.get("/v1/webhooks").json() == {"webhooks": []}


def test_failed_test_and_enable(ranksieve, http, endpoint):
    id, _ = ranksieve("webhooks", "create", "https://hooks.example.com/").stdout.split()
    endpoint.outcomes.append(Outcome.answered(410))

    tested = ranksieve("webhooks", "test", id)

    assert (tested.exit_code, tested.stdout.split()[1]) == (1, "failed")
    assert tested.stderr == "error: answered 410\n"
    listed = ranksieve("webhooks", "list").stdout
    assert "no: the URL" in listed
    assert "410 Gone" in listed
    assert ranksieve("webhooks", "enable", id).stdout == f"{id} enabled\n"
    assert http.get(f"/v1/webhooks/{id}").json()["enabled"]


def test_wrong_target(ranksieve):
    done = ranksieve("webhooks", "create", "http://127.0.0.1/")

    assert done.exit_code == 2
    assert done.stderr.startswith("url: must begin with https")
