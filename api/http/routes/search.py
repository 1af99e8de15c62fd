"""Generations and scored candidates of a job's search."""

from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic.json_schema import SkipJsonSchema

from ranksieve.api.http.errors import responses
from ranksieve.api.http.routes import tables
from ranksieve.api.http.routes.caller import Caller, Reader
from ranksieve.api.http.schemas.common import LARGEST, Count
from ranksieve.api.http.schemas.search import (
    CANDIDATE_FIELDS,
    CandidateField,
    CandidatePage,
    GenerationBody,
    GenerationPage,
)
from ranksieve.search.errors import InputError

router = APIRouter(prefix="/jobs/{job_id}", tags=["search"], responses=responses(HTTPStatus.NOT_FOUND))


@router.get("/generations", response_model=GenerationPage, responses=tables.ANSWER)
def generations(
    job_id: str,
    request: Request,
    reader: Reader,
    after: Annotated[
        int, Query(ge=-1, le=LARGEST, description="Number of the last generation already seen.")
    ] = -1,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    format: tables.FormatQuery = None,
) -> GenerationPage | Response:
    """List the records of finished generations, in order."""
    if (kind := tables.wanted(request, format)) != "json":
        batches = tables.pages(
            lambda last: reader.jobs.generations(job_id, after=last, limit=tables.BATCH), "generation", after
        )
        return tables.table(kind, GenerationPage, batches, job_id)
    return GenerationPage(
        generations=[
            GenerationBody(**one) for one in reader.jobs.generations(job_id, after=after, limit=limit)
        ]
    )


@router.get("/candidates", response_model=CandidatePage, responses=tables.ANSWER)
def candidates(
    job_id: str,
    request: Request,
    reader: Reader,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[
        Count | SkipJsonSchema[None],
        Query(description="`id` of the previous page's last candidate; not with `pareto`."),
    ] = None,
    generation: Annotated[Count | SkipJsonSchema[None], Query(description="Only this generation.")] = None,
    pareto: Annotated[
        bool,
        Query(description="Only candidates that no smaller one beats, smallest first."),
    ] = False,
    fields: Annotated[
        list[CandidateField],
        Query(
            max_length=len(CANDIDATE_FIELDS),
            description="Only these fields, as `fields=id&fields=ranks`; all by default. `genome` and `ranks` have a "
            "number for each matrix.",
        ),
    ] = [],  # noqa: B006 (read by FastAPI)
    format: tables.FormatQuery = None,
) -> CandidatePage | Response:
    """List the scorings of a job's candidates in the order they were saved."""
    if (kind := tables.wanted(request, format)) != "json":
        batches = _batches(reader, job_id, generation, fields, pareto=pareto)
        return tables.table(kind, CandidatePage, batches, job_id, fields)
    if pareto:
        if after is not None:
            raise InputError(
                "after", "not allowed with pareto; the front is short, ask for all of it by limit"
            )
        found = reader.jobs.front(job_id, limit=limit, generation=generation, fields=fields)
    else:
        found = reader.jobs.candidates(job_id, limit=limit, generation=generation, after=after, fields=fields)
    return CandidatePage(candidates=_shown(reader, found))


def _batches(
    reader: Caller, job_id: str, generation: int | None, fields: list[str], *, pareto: bool
) -> Iterator[tables.Rows]:
    """Yield all scorings of a selection, with their `id`, which continues the pages."""
    read = partial(reader.jobs.candidates, job_id, limit=tables.BATCH, generation=generation)
    chosen = ["id", *fields] if fields else []
    if pareto:
        yield _shown(reader, reader.jobs.front(job_id, generation=generation, fields=chosen))
        return
    for page in tables.pages(lambda last: read(after=last, fields=chosen), "id", None):
        yield _shown(reader, page)


def _shown(reader: Caller, candidates: tables.Rows) -> tables.Rows:
    """Return candidates as the caller may see them; they may lack fields."""
    return [
        {**one, "failure": reader.shown(one["failure"])} if "failure" in one else one for one in candidates
    ]
