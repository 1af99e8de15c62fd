"""Local models that a job file may name."""

import os
from functools import partial

from fastapi import APIRouter, Request

from ranksieve.api.http.routes.caller import Reader
from ranksieve.api.http.schemas.server import LocalModelBody, LocalModelList
from ranksieve.service.pipeline.model_listing import list_models

router = APIRouter(prefix="/models", tags=["capabilities"])


@router.get("")
async def models(reader: Reader, request: Request) -> LocalModelList:
    """List the models under the server's roots that a job could start from.

    `model.hub` names others. Models that only an absolute path can name are listed for the admin alone.

    Weights are not read: a job, or an estimate, may still refuse a listed model.
    """
    settings = reader.application.settings.without_secrets()
    listing = await request.app.state.places.run(
        request, reader.principal.owner, partial(list_models, settings)
    )
    models = [LocalModelBody.of(model) for model in listing.models]
    if reader.principal.sees is not None:
        relative = [one for one in models if not any(map(os.path.isabs, one.model.values()))]
        models = [one.model_copy(update={"location": None}) for one in relative]
    return LocalModelList(models=models, complete=listing.complete)
