"""Capabilities of this server."""

from fastapi import APIRouter

from ranksieve.api.http.routes.caller import Reader
from ranksieve.api.http.schemas.common import MAX_BODY_BYTES
from ranksieve.api.http.schemas.server import CapabilitiesBody, DeviceBody, LimitsBody
from ranksieve.service.server.capabilities import versions

router = APIRouter(prefix="/capabilities", tags=["capabilities"])


@router.get("")
def capabilities(reader: Reader) -> CapabilitiesBody:
    """Show versions, devices and limits; the words of job files are in their schema."""
    application = reader.application
    gib = application.settings.cache_limit_gib
    return CapabilitiesBody(
        versions=versions(),
        devices=[DeviceBody.of(device) for device in application.devices()],
        limits=LimitsBody.of(
            application.settings, cache_gib=gib if gib < float("inf") else None, body_bytes=MAX_BODY_BYTES
        ),
    )
