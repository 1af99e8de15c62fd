"""API keys over REST."""

from datetime import datetime, timedelta


def test_a_key_is_made_listed_replaced_and_ended(http):
    made = http.post("/v1/keys", json={"owner": "alice", "scope": "read", "days": 7})
    assert made.status_code == 201
    key = made.json()
    assert (key["owner"], key["scope"]) == ("alice", "read")
    lifetime = datetime.fromisoformat(key["expires_at"]) - datetime.fromisoformat(key["created_at"])
    assert lifetime == timedelta(days=7)

    # From the first key on, the server wants one; an admin's goes on.
    assert http.get("/v1/keys").status_code == 401


def test_keys_are_the_admins(http):
    admin = http.post("/v1/keys", json={"owner": "root", "scope": "admin"}).json()
    http.headers["Authorization"] = f"Bearer {admin['secret']}"
    key = http.post("/v1/keys", json={"owner": "alice"}).json()
    assert key["scope"] == "submit"
    assert key["expires_at"] is None

    listed = http.get("/v1/keys").json()["keys"]
    assert [one["id"] for one in listed] == [admin["id"], key["id"]]
    assert all("secret" not in one for one in listed)

    new = http.post(f"/v1/keys/{key['id']}/rotate", json={"grace_hours": 1}).json()
    assert new["owner"] == "alice"
    ended = http.post(f"/v1/keys/{new['id']}/revoke").json()
    assert ended["expires_at"] is not None
    assert http.post(f"/v1/keys/{new['id']}/rotate", json={}).status_code == 409
    assert http.post("/v1/keys/nope/revoke").status_code == 404

    for secret, status in ((new["secret"], 401), (key["secret"], 403)):
        assert http.get("/v1/keys", headers={"Authorization": f"Bearer {secret}"}).status_code == status


def test_a_wrong_key_is_refused_with_its_field(http):
    wrong = [({"owner": "a b"}, "owner"), ({"owner": "a", "days": 0}, "days"), ({"owner": "a", "x": 1}, "x")]
    for body, field in wrong:
        answer = http.post("/v1/keys", json=body)
        assert answer.status_code == 422
        assert [error["field"] for error in answer.json()["errors"]] == [field]
