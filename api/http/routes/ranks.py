"""Ranks of a job's candidates, layer by layer."""

import csv
import io
from http import HTTPStatus
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic.json_schema import SkipJsonSchema

from ranksieve.api.http.errors import responses
from ranksieve.api.http.routes.caller import Caller, Reader
from ranksieve.api.http.schemas.common import Count
from ranksieve.api.http.schemas.jobs import RanksBody
from ranksieve.search.errors import NotFoundError
from ranksieve.service.job import matrices
from ranksieve.service.job.job import Job

router = APIRouter(prefix="/jobs/{job_id}", tags=["search"], responses=responses(HTTPStatus.NOT_FOUND))


@router.get(
    "/ranks",
    response_model=RanksBody,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
def ranks(
    job_id: str,
    request: Request,
    reader: Reader,
    candidate: Annotated[
        Count | SkipJsonSchema[None],
        Query(description="`id` of a candidate; by default the exported model."),
    ] = None,
    format: Annotated[
        Literal["json", "csv"] | SkipJsonSchema[None], Query(description="Default: the `Accept` header.")
    ] = None,
) -> Response:
    """Show the rank of every matrix of the exported model or of a candidate.

    The table has a row for each layer; -1 is dense.
    """
    job = reader.jobs.job(job_id)
    kept = matrices.kept(reader.application.settings.jobs_dir / job.id)
    ranks = _ranks(reader, job, [matrix.name for matrix in kept], candidate)
    layers, columns, rows = matrices.by_layer(kept, ranks)
    if format == "csv" or (format is None and "text/csv" in request.headers.get("accept", "")):
        return Response(_csv(layers, columns, rows), media_type="text/csv")
    shares = {matrix.name: matrix.density(ranks[matrix.name]) for matrix in kept}
    _, _, densities = matrices.by_layer(kept, shares)
    body = RanksBody(layers=layers, matrices=columns, ranks=rows, densities=densities)
    return JSONResponse(body.model_dump())


def _ranks(reader: Caller, job: Job, names: list[str], candidate: int | None) -> dict[str, int]:
    if candidate is None:
        if job.result is None:
            raise NotFoundError(f"job {job.id} has no result; give a candidate")
        return dict(job.result["ranks"])
    found = reader.jobs.candidate(job.id, candidate)
    return dict(zip(names, found["ranks"], strict=True))


def _csv(layers: list[int], columns: list[str], rows: list[list[int | None]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["layer", *columns])
    writer.writerows([layer, *row] for layer, row in zip(layers, rows, strict=True))
    return text.getvalue()
