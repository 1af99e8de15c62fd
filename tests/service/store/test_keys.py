"""API keys in a store."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from databases import ON_EACH
from sqlalchemy import text

from ranksieve.search.errors import ConflictError, InputError, NotFoundError
from ranksieve.service.server.keys import Scope, new_token
from ranksieve.service.store import Store
from ranksieve.service.store import keys as keys_module
from ranksieve.service.store.keys import Keys

START = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """A time that passes by a millisecond whenever it is read, and by more when a test says so."""

    def __init__(self) -> None:
        self._reads = count()
        self._passed = timedelta()

    def __call__(self) -> datetime:
        return START + self._passed + timedelta(milliseconds=next(self._reads))

    def advance(self, **time: float) -> None:
        self._passed += timedelta(**time)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(keys_module, "now", clock)
    return clock


@pytest.fixture
def keys(store: Store, clock: Clock) -> Iterator[Keys]:
    return store.keys


@ON_EACH
def test_a_key_is_found_by_its_secret_alone(keys: Keys) -> None:
    key, secret = keys.create("alice", Scope.SUBMIT)

    assert keys.find(secret) == key
    assert (key.owner, key.scope, key.expires_at) == ("alice", Scope.SUBMIT, None)
    assert keys.find(key.id) is None
    assert keys.find(secret[:-1] + ("A" if secret[-1] != "A" else "B")) is None
    assert keys.find(new_token()) is None
    assert keys.find("\0") is None


def test_the_secret_is_nowhere_in_the_database(keys: Keys, store: Store) -> None:
    _, secret = keys.create("alice", Scope.READ)

    with store.database.reading() as session:
        [row] = session.execute(text("SELECT * FROM api_keys")).all()
    assert secret.split("_", 2)[2] not in str(row)


@ON_EACH
def test_keys_are_listed_oldest_first_dead_ones_too(keys: Keys) -> None:
    assert (keys.any(), keys.list()) == (False, [])

    made = [keys.create(owner, Scope.READ)[0] for owner in ("alice", "bob")]
    revoked = keys.revoke(made[0].id)

    assert keys.any()
    assert keys.list() == [revoked, made[1]]


@ON_EACH
def test_a_key_is_good_for_its_lifetime(keys: Keys, clock: Clock) -> None:
    _, secret = keys.create("alice", Scope.READ, timedelta(days=1))

    clock.advance(hours=23.9)
    assert keys.find(secret) is not None
    clock.advance(hours=0.2)
    assert keys.find(secret) is None


def test_a_revoked_key_is_dead_at_once_and_stays_so(keys: Keys, clock: Clock) -> None:
    key, secret = keys.create("alice", Scope.ADMIN)

    revoked = keys.revoke(key.id)
    clock.advance(days=1)

    assert keys.find(secret) is None
    assert keys.revoke(key.id) == revoked


def test_a_rotated_key_is_replaced_by_its_like(keys: Keys) -> None:
    old, old_secret = keys.create("alice", Scope.SUBMIT, timedelta(days=30))

    new, new_secret = keys.rotate(old.id)

    assert keys.find(old_secret) is None
    assert keys.find(new_secret) == new
    assert (new.owner, new.scope) == (old.owner, old.scope)
    assert new.id != old.id
    assert new.expires_at is not None
    assert new.expires_at - new.created_at == timedelta(days=30)


@pytest.mark.parametrize("lifetime", [None, timedelta(days=30)])
def test_a_key_whose_successor_was_lost_is_replaced_again_by_its_like(
    keys: Keys, lifetime: timedelta | None
) -> None:
    old, _ = keys.create("alice", Scope.SUBMIT, lifetime)
    keys.rotate(old.id, grace=timedelta(hours=1))

    new, _ = keys.rotate(old.id, grace=timedelta(hours=1))

    assert new.expires_at == (None if lifetime is None else new.created_at + lifetime)


def test_the_old_key_may_stay_good_for_a_while_but_not_beyond_its_own_end(keys: Keys, clock: Clock) -> None:
    lasting, lasting_secret = keys.create("alice", Scope.SUBMIT)
    ending, ending_secret = keys.create("bob", Scope.SUBMIT, timedelta(hours=1))

    for key in (lasting, ending):
        keys.rotate(key.id, grace=timedelta(hours=2))

    clock.advance(hours=1.5)
    assert keys.find(lasting_secret) is not None
    assert keys.find(ending_secret) is None
    clock.advance(hours=1)
    assert keys.find(lasting_secret) is None


def test_a_dead_key_is_not_rotated(keys: Keys) -> None:
    key, _ = keys.create("alice", Scope.READ)
    keys.revoke(key.id)

    with pytest.raises(ConflictError, match=f"key {key.id} ended at 2026-01-01 00:00; create a new one"):
        keys.rotate(key.id)


@ON_EACH
def test_an_unknown_key_is_not_found(keys: Keys) -> None:
    for id in ("000000000000", "\0"):
        with pytest.raises(NotFoundError, match="there is no key"):
            keys.revoke(id)
        with pytest.raises(NotFoundError):
            keys.rotate(id)


def test_a_wrong_owner_makes_no_key(keys: Keys) -> None:
    with pytest.raises(InputError):
        keys.create("", Scope.READ)

    assert not keys.any()
