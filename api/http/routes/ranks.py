"""Ranks of a job's candidates, layer by layer."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic.json_schema import SkipJsonSchema

from ranksieve.api.http.errors import responses
from ranksieve.api.http.routes.caller import Caller, Reader
from ranksieve.api.http.schemas.common import Count
from ranksieve.api.http.schemas.search import RanksBody
from ranksieve.search.errors import NotFoundError
from ranksieve.service.job import matrices
from ranksieve.service.job.job import Job

router = APIRouter(prefix="/jobs/{job_id}", tags=["search"], responses=responses(HTTPStatus.NOT_FOUND))


@router.get("/ranks")
def ranks(
    job_id: str,
    reader: Reader,
    candidate: Annotated[
        Count | SkipJsonSchema[None],
        Query(description="`id` of a candidate; by default the exported model."),
    ] = None,
) -> RanksBody:
    """Show the rank of every matrix of the exported model or of a candidate.

    The table has a row for each layer; -1 is dense.
    """
    job = reader.jobs.job(job_id)
    kept = matrices.kept(reader.application.settings.jobs_dir / job.id)
    ranks = _ranks(reader, job, [matrix.name for matrix in kept], candidate)
    layers, columns, rows = matrices.by_layer(kept, ranks)
    _, _, densities = matrices.by_layer(kept, {one.name: one.density(ranks[one.name]) for one in kept})
    _, _, sizes = matrices.by_layer(kept, {one.name: one.dense_params for one in kept})
    return RanksBody(layers=layers, matrices=columns, ranks=rows, densities=densities, dense_params=sizes)


def _ranks(reader: Caller, job: Job, names: list[str], candidate: int | None) -> dict[str, int]:
    if candidate is None:
        if job.result is None:
            raise NotFoundError(f"job {job.id} has no result; give a candidate")
        return dict(job.result["ranks"])
    found = reader.jobs.candidate(job.id, candidate)
    return dict(zip(names, found["ranks"], strict=True))
