"""`ranksieve keys`."""

import pytest


def test_life_of_a_key(ranksieve, settings, tmp_path, application):
    data_dir = ("--data-dir", settings.data_dir)
    secret = ranksieve("keys", "create", "alice", "--scope", "read", *data_dir).stdout.strip()
    key = application.store.keys.find(secret)
    assert (key.owner, key.scope, key.expires_at) == ("alice", "read", None)

    replaced = ranksieve("keys", "rotate", key.id, "--grace-hours", "1", *data_dir).stdout.strip()
    new = application.store.keys.find(replaced)
    assert ranksieve("keys", "revoke", new.id, *data_dir).stdout == f"{new.id} revoked\n"
    assert application.store.keys.find(replaced) is None
    assert application.store.keys.find(secret) is not None

    listed = ranksieve("keys", "list", *data_dir).stdout
    assert all(text in listed for text in (key.id, new.id, "alice", "read"))
    assert secret not in listed


@pytest.mark.parametrize("command", [("list",), ("rotate", "k"), ("revoke", "k")])
def test_keys_of_a_mistyped_directory(ranksieve, tmp_path, command):
    done = ranksieve("keys", *command, "--data-dir", tmp_path / "mistyped")
    assert done.exit_code == 2
    assert "data_dir: no server has run on" in done.stderr
    assert not (tmp_path / "mistyped").exists()


def test_first_key_before_the_first_start(ranksieve, tmp_path):
    done = ranksieve("keys", "create", "alice", "--data-dir", tmp_path / "new")
    assert done.stdout.startswith("rsk_")
    assert f"creating a new database: {tmp_path}/new/ranksieve.db" in done.stderr


def test_wrong_id_and_wrong_owner(ranksieve, settings):
    ranksieve("keys", "create", "alice", "--data-dir", settings.data_dir)
    done = ranksieve("keys", "revoke", "nope", "--data-dir", settings.data_dir)
    assert done.exit_code == 1
    assert "there is no key 'nope'" in done.stderr

    done = ranksieve("keys", "create", "a b", "--data-dir", settings.data_dir)
    assert done.exit_code == 2
    assert "owner: must be up to 100 letters" in done.stderr
