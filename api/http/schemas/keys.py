"""API keys, and how the secret of a key or a webhook is replaced."""

from datetime import datetime

from pydantic import BaseModel, Field

from ranksieve.api.http.schemas.common import Shown
from ranksieve.service.server.keys import LONGEST_GRACE_H, OWNER, Scope
from ranksieve.service.spec import Strict


class NewKey(Strict):
    """The key to make."""

    owner: str = Field(pattern=OWNER, description="Whose jobs it is for, e.g. `alice`.")
    scope: Scope = Field(default=Scope.SUBMIT, strict=False)
    days: int | None = Field(
        default=None,
        strict=True,
        ge=1,
        le=3650,
        description="So long it is good; without it, until it is revoked.",
    )


class Rotation(Strict):
    """How a key is replaced."""

    grace_hours: int = Field(
        default=0,
        strict=True,
        ge=0,
        le=LONGEST_GRACE_H,
        description="So long the old key stays good beside the new one.",
    )


class KeyBody(Shown):
    """An API key, without its secret."""

    id: str
    owner: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None = Field(description="From when on it is no longer good.")


class SecretKeyBody(KeyBody):
    """A new API key."""

    secret: str = Field(description="To be sent as a bearer token. It is shown once and kept nowhere.")


class KeyList(BaseModel):
    """All API keys, oldest first."""

    keys: list[KeyBody]
