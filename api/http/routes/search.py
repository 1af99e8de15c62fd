"""Generations and scored candidates of a job's search."""

from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic.json_schema import SkipJsonSchema

from ranksieve.api.http.errors import responses
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


@router.get("/generations")
def generations(
    job_id: str,
    reader: Reader,
    after: Annotated[
        int, Query(ge=-1, le=LARGEST, description="Number of the last generation already seen.")
    ] = -1,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
) -> GenerationPage:
    """List the records of finished generations, in order."""
    return GenerationPage(
        generations=[
            GenerationBody(**one) for one in reader.jobs.generations(job_id, after=after, limit=limit)
        ]
    )


@router.get("/candidates")
def candidates(
    job_id: str,
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
) -> CandidatePage:
    """List the scorings of a job's candidates in the order they were saved."""
    if pareto:
        if after is not None:
            raise InputError(
                "after", "not allowed with pareto; the front is short, ask for all of it by limit"
            )
        found = reader.jobs.front(job_id, limit=limit, generation=generation, fields=fields)
    else:
        found = reader.jobs.candidates(job_id, limit=limit, generation=generation, after=after, fields=fields)
    return CandidatePage(candidates=[_shown(reader, one) for one in found])


def _shown(reader: Caller, candidate: dict[str, Any]) -> dict[str, Any]:
    """Return a candidate as the caller may see it; it may lack fields."""
    if "failure" not in candidate:
        return candidate
    return {**candidate, "failure": reader.shown(candidate["failure"])}
