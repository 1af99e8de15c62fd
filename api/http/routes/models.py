"""The local models that a job file could name."""

from fastapi import APIRouter

from ranksieve.api.http.routes.caller import Reader
from ranksieve.api.http.schemas.server import LocalModelBody, LocalModelList

router = APIRouter(prefix="/models", tags=["capabilities"])


@router.get("")
def models(reader: Reader) -> LocalModelList:
    """List the models under the server's roots that a job could start from; `model.hub` names others.

    Weights are not read: a job, or a dry run, may still refuse what is listed.
    """
    listing = reader.application.models()
    return LocalModelList(
        models=[LocalModelBody.of(model) for model in listing.models], complete=listing.complete
    )
