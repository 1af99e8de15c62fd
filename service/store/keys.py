"""API keys in the store: created, found by their secret, revoked, rotated."""

from datetime import datetime, timedelta
from secrets import compare_digest

from sqlalchemy import select
from sqlalchemy.orm import Session

from ranksieve.search.errors import ConflictError, NotFoundError
from ranksieve.service.server.keys import ApiKey, Scope, check_owner, digest_of, id_of, new_token
from ranksieve.service.store.database import Database
from ranksieve.service.store.schema import KeyRow
from ranksieve.service.store.times import now


class Keys:
    """API keys in a database.

    A secret is returned once, when its key is created. Only its digest is stored.

    Args:
        database: Database of the keys.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, owner: str, scope: Scope, lifetime: timedelta | None = None) -> tuple[ApiKey, str]:
        """Create a key.

        Args:
            owner: Owner of the jobs that it is for.
            scope: Permissions of the key.
            lifetime: Time until it expires; None: it is valid until it is revoked.

        Returns:
            The key, and the secret to hand to its holder.

        Raises:
            InputError: The owner's name is not allowed.
        """
        check_owner(owner)
        with self._database.writing() as session:
            return _add(session, owner, scope, lifetime)

    def list(self) -> list[ApiKey]:
        """Return every key, oldest first, also invalid ones."""
        with self._database.reading() as session:
            return [_key_of(row) for row in session.scalars(select(KeyRow).order_by(KeyRow.created_at))]

    def any(self) -> bool:
        """Return whether a key was ever created."""
        with self._database.reading() as session:
            return session.scalars(select(KeyRow.id).limit(1)).first() is not None

    def find(self, token: str) -> ApiKey | None:
        """Return the key with this secret, if it is valid."""
        id = id_of(token)
        if id is None:
            return None
        with self._database.reading() as session:
            row = session.get(KeyRow, id)
            # In constant time, so that the time does not show how much was right.
            if row is None or not compare_digest(row.digest, digest_of(token)) or _is_over(row, now()):
                return None
            return _key_of(row)

    def revoke(self, id: str) -> ApiKey:
        """Revoke a key at once.

        Raises:
            NotFoundError: There is no such key.
        """
        with self._database.writing() as session:
            row = _find(session, id)
            if not _is_over(row, now()):
                row.expires_at = now()
            return _key_of(row)

    def rotate(self, id: str, grace: timedelta = timedelta()) -> tuple[ApiKey, str]:
        """Replace a key by one of the same owner, scope and lifetime.

        Args:
            id: The key to replace.
            grace: Time that the old key stays valid beside the new one.

        Returns:
            The new key and its secret.

        Raises:
            NotFoundError: There is no such key.
            ConflictError: The key is invalid already.
        """
        with self._database.writing() as session:
            row = _find(session, id)
            if _is_over(row, now()):
                raise ConflictError(f"key {id} ended at {row.expires_at:%Y-%m-%d %H:%M}; create a new one")
            lifetime = None if row.lifetime_s is None else timedelta(seconds=row.lifetime_s)
            end = now() + grace
            row.expires_at = end if row.expires_at is None else min(end, row.expires_at)
            return _add(session, row.owner, Scope(row.scope), lifetime)


def _add(session: Session, owner: str, scope: Scope, lifetime: timedelta | None) -> tuple[ApiKey, str]:
    token, created = new_token(), now()
    row = KeyRow(
        id=id_of(token),
        owner=owner,
        scope=scope.value,
        digest=digest_of(token),
        created_at=created,
        expires_at=None if lifetime is None else created + lifetime,
        lifetime_s=None if lifetime is None else lifetime.total_seconds(),
    )
    session.add(row)
    return _key_of(row), token


def _find(session: Session, id: str) -> KeyRow:
    row = session.get(KeyRow, id, with_for_update=True) if id.isalnum() else None
    if row is None:
        raise NotFoundError(f"there is no key {id!r}")
    return row


def _is_over(row: KeyRow, at: datetime) -> bool:
    return row.expires_at is not None and row.expires_at <= at


def _key_of(row: KeyRow) -> ApiKey:
    return ApiKey(
        id=row.id,
        owner=row.owner,
        scope=Scope(row.scope),
        created_at=row.created_at,
        expires_at=row.expires_at,
    )
