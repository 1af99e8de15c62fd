"""Local models that a job file may name."""

from functools import partial

from fastapi import APIRouter, Request

from ranksieve.api.http.routes.caller import Reader
from ranksieve.api.http.schemas.server import LocalModelBody, LocalModelList
from ranksieve.service.pipeline.model_listing import list_models

router = APIRouter(prefix="/models", tags=["capabilities"])


@router.get("")
async def models(reader: Reader, request: Request) -> LocalModelList:
    """List the models under the server's roots that a job could start from.

    `model.hub` names others.

    Weights are not read: a job, or a dry run, may still refuse a listed model.
    """
    settings = reader.application.settings.without_secrets()
    listing = await request.app.state.places.run(
        request, reader.principal.owner, partial(list_models, settings)
    )
    return LocalModelList(
        models=[LocalModelBody.of(model) for model in listing.models], complete=listing.complete
    )
