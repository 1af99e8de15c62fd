"""Capabilities of this server."""

from fastapi import APIRouter

from ranksieve.api.http.routes.caller import Reader
from ranksieve.api.http.schemas.server import CapabilitiesBody
from ranksieve.service.server.capabilities import capabilities as capabilities_of

router = APIRouter(prefix="/capabilities", tags=["capabilities"])


@router.get("")
def capabilities(reader: Reader) -> CapabilitiesBody:
    """Show versions, devices, limits, and the kinds of tasks, methods and objectives."""
    application = reader.application
    return CapabilitiesBody.model_validate(capabilities_of(application.settings, application.devices()))
