"""The API keys in the store: made, found by what their holder sends, ended, replaced."""

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
    """API keys in a database. A secret is returned once, when it is made; what is kept cannot be turned back into it.

    Args:
        database: Where they are.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, owner: str, scope: Scope, lifetime: timedelta | None = None) -> tuple[ApiKey, str]:
        """Makes a key.

        Args:
            owner: Whose jobs it is for.
            scope: What it allows.
            lifetime: So long it is good; None for as long as nobody revokes it.

        Returns:
            The key, and the secret to hand to its holder.

        Raises:
            InputError: The owner may not be called so.
        """
        check_owner(owner)
        with self._database.writing() as session:
            return _add(session, owner, scope, lifetime)

    def list(self) -> list[ApiKey]:
        """Every key, dead ones too, oldest first."""
        with self._database.reading() as session:
            return [_key_of(row) for row in session.scalars(select(KeyRow).order_by(KeyRow.created_at))]

    def any(self) -> bool:
        """Whether a key was ever made."""
        with self._database.reading() as session:
            return session.scalars(select(KeyRow.id).limit(1)).first() is not None

    def find(self, token: str) -> ApiKey | None:
        """The key that somebody has sent the secret of, if it is good."""
        id = id_of(token)
        if id is None:
            return None
        with self._database.reading() as session:
            row = session.get(KeyRow, id)
            # In constant time: how much of it was right must not show.
            if row is None or not compare_digest(row.digest, digest_of(token)) or _dead(row, now()):
                return None
            return _key_of(row)

    def revoke(self, id: str) -> ApiKey:
        """Ends a key at once.

        Raises:
            NotFoundError: There is no such key.
        """
        with self._database.writing() as session:
            row = _find(session, id)
            if not _dead(row, now()):
                row.expires_at = now()
            return _key_of(row)

    def rotate(self, id: str, grace: timedelta = timedelta()) -> tuple[ApiKey, str]:
        """Replaces a key by one of the same owner, scope and lifetime.

        Args:
            id: The key to replace.
            grace: So long the old one stays good beside the new one.

        Returns:
            The new key and its secret.

        Raises:
            NotFoundError: There is no such key.
            ConflictError: It is dead already.
        """
        with self._database.writing() as session:
            row = _find(session, id)
            if _dead(row, now()):
                raise ConflictError(
                    f"key {id} has ended at {row.expires_at:%Y-%m-%d %H:%M}; create a new one"
                )
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


def _dead(row: KeyRow, at: datetime) -> bool:
    return row.expires_at is not None and row.expires_at <= at


def _key_of(row: KeyRow) -> ApiKey:
    return ApiKey(
        id=row.id,
        owner=row.owner,
        scope=Scope(row.scope),
        created_at=row.created_at,
        expires_at=row.expires_at,
    )
