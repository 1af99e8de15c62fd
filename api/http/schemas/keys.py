"""API keys, and the rotation of the secrets of keys and webhooks."""

from datetime import datetime

from pydantic import BaseModel, Field

from ranksieve.api.http.schemas.common import Shown
from ranksieve.service.server.keys import LONGEST_GRACE_H, OWNER, Scope
from ranksieve.service.spec import Strict


class NewKey(Strict):
    """Key to create."""

    owner: str = Field(pattern=OWNER, description="Owner of its jobs, e.g. `alice`.")
    scope: Scope = Field(default=Scope.SUBMIT, strict=False)
    days: int | None = Field(
        default=None,
        strict=True,
        ge=1,
        le=3650,
        description="Lifetime in days; without it, until the key is revoked.",
    )


class Rotation(Strict):
    """Rotation of a key or a webhook's secret."""

    grace_hours: int = Field(
        default=0,
        strict=True,
        ge=0,
        le=LONGEST_GRACE_H,
        description="Hours that the old key or secret stays valid.",
    )


class KeyBody(Shown):
    """API key, without its secret."""

    id: str
    owner: str
    scope: Scope
    created_at: datetime
    expires_at: datetime | None = Field(description="End of its validity.")


class SecretKeyBody(KeyBody):
    """New API key."""

    secret: str = Field(description="Bearer token of requests. Shown once and not stored.")


class KeyList(BaseModel):
    """All API keys, oldest first."""

    keys: list[KeyBody]


class Me(Shown):
    """Caller of the API, by its key."""

    owner: str = Field(
        description="Owner of the caller's jobs; `admin` for the server's own key, or without any."
    )
    scope: Scope = Field(description="What the caller may do; `admin` sees the jobs of all owners.")
