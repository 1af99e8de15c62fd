"""API keys: permissions proven by a secret that is never stored.

    rsk_5f0c2a9b7d31_Hk…Q        what its holder sends: `rsk`, the key's id, 256 bits of chance

The SHA-256 of the whole is stored. That is enough: passwords need a slow, salted hash because they can be guessed,
and 256 random bits cannot. A slow hash would only delay every request.
Knows nothing of SQL or HTTP.
"""

import hashlib
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self

from ranksieve.search.errors import InputError

ADMIN = "admin"
"""Owner of jobs submitted without an API key.

That is on an open server, or with `RANKSIEVE_API_KEY`.
"""

OWNER = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,99}$"
_TOKEN = re.compile(r"rsk_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")


class Scope(StrEnum):
    """Permissions of a key; each scope includes the ones before it."""

    READ = "read"
    """Read the jobs of its owner."""
    SUBMIT = "submit"
    """Submit, change and cancel jobs of its owner."""
    ADMIN = "admin"
    """Do so with the jobs of all owners, and manage keys."""

    def includes(self, other: "Scope") -> bool:
        """Return whether this scope allows what needs the other."""
        order = list(Scope)
        return order.index(self) >= order.index(other)


LONGEST_GRACE_H = 8760
"""Longest validity of a replaced key or secret of a webhook, in hours: a year."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """API key as it is stored, without its secret.

    Times are UTC. The key is invalid from `expires_at` on.
    """

    id: str
    owner: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """Caller of the API."""

    owner: str
    scope: Scope

    @classmethod
    def admin(cls) -> Self:
        """Return the operator of the server."""
        return cls(owner=ADMIN, scope=Scope.ADMIN)

    @property
    def sees(self) -> str | None:
        """Owner whose jobs the caller sees; None: all."""
        return None if self.scope is Scope.ADMIN else self.owner


def new_token() -> str:
    """Return a new random secret."""
    return f"rsk_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"


def id_of(token: str) -> str | None:
    """Return the id of the key that a token claims to be; None if it is no token."""
    match = _TOKEN.fullmatch(token)
    return None if match is None else match[1]


def digest_of(token: str) -> str:
    """Return the stored digest of a token: its SHA-256, in hex."""
    return hashlib.sha256(token.encode()).hexdigest()


def check_owner(owner: str) -> None:
    """Check the name of an owner for a key.

    Raises:
        InputError: The name has other characters, is too long, or is the server's own.
    """
    if re.fullmatch(OWNER, owner) is None:
        raise InputError("owner", f"must be up to 100 letters, digits and . _ @ -, e.g. alice; got {owner!r}")
    if owner.casefold() == ADMIN:
        raise InputError("owner", f"{owner!r} is the owner of the server's own jobs; choose another name")
