"""API keys: who may do what, told by a secret that is never stored.

    rsk_5f0c2a9b7d31_Hk…Q        what its holder sends: `rsk`, the key's id, 256 bits of chance

Kept is the SHA-256 of the whole. That is enough: what makes passwords need a slow, salted hash is that they can
be guessed, and nobody guesses 256 random bits; a slow one would only cost every request its time.
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
"""Owner of what is submitted without a key of its own: on an open server, or with `RANKSIEVE_API_KEY`."""

OWNER = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,99}$"
_TOKEN = re.compile(r"rsk_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")


class Scope(StrEnum):
    """What a key allows; each includes the ones before it."""

    READ = "read"
    """Look at the jobs of its owner."""
    SUBMIT = "submit"
    """Submit, change and cancel them."""
    ADMIN = "admin"
    """Do so with everybody's, and manage keys."""

    def includes(self, other: "Scope") -> bool:
        """Whether who has this scope may do what needs the other."""
        order = list(Scope)
        return order.index(self) >= order.index(other)


LONGEST_GRACE_H = 8760
"""Hours that a key may stay good beside the one that replaces it, or a secret of a webhook: a year."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """A key as it is kept, without its secret. Times are UTC; it is dead from `expires_at` on."""

    id: str
    owner: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """Who is asking."""

    owner: str
    scope: Scope

    @classmethod
    def admin(cls) -> Self:
        """Whoever runs the server."""
        return cls(owner=ADMIN, scope=Scope.ADMIN)

    @property
    def sees(self) -> str | None:
        """Whose jobs there are for them; None for everybody's."""
        return None if self.scope is Scope.ADMIN else self.owner


def new_token() -> str:
    """A secret that was never given out before."""
    return f"rsk_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"


def id_of(token: str) -> str | None:
    """The id of the key that a token claims to be, or None if it is no token of ours."""
    match = _TOKEN.fullmatch(token)
    return None if match is None else match[1]


def digest_of(token: str) -> str:
    """What is kept of a token: its SHA-256, in hex."""
    return hashlib.sha256(token.encode()).hexdigest()


def check_owner(owner: str) -> None:
    """Whether an owner may be called so.

    Raises:
        InputError: The name could be mistaken, or is too long.
    """
    if re.fullmatch(OWNER, owner) is None:
        raise InputError("owner", f"must be up to 100 letters, digits and . _ @ -, e.g. alice; got {owner!r}")
