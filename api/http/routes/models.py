"""Local models that a job file may name."""

from fastapi import APIRouter

from ranksieve.api.http.routes.caller import Reader
from ranksieve.api.http.schemas.server import LocalModelBody, LocalModelList
from ranksieve.service.pipeline.model_listing import local_models

router = APIRouter(prefix="/models", tags=["capabilities"])


@router.get("")
def models(reader: Reader) -> LocalModelList:
    """List the models under the server's roots that a job could start from.

    `model.hub` names others.

    Weights are not read: a job, or a dry run, may still refuse a listed model.
    """
    listing = local_models(reader.application.settings)
    return LocalModelList(
        models=[LocalModelBody.of(model) for model in listing.models], complete=listing.complete
    )
