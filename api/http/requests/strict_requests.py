"""Refusal of unknown names in the query.

Ignoring them would run another request than was meant: `?dry_run=true` would queue a job.
"""

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute


def refuse_ignored(request: Request) -> None:
    """Refuse unknown query names; a dependency of all routes.

    Raises:
        RequestValidationError: The query has names that the route does not know.
    """
    route = request.scope["route"]
    assert isinstance(route, APIRoute)
    known = [field.alias for field in route.dependant.query_params]
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        raise RequestValidationError(
            [{"type": "extra_forbidden", "loc": ("query", name), "known": known} for name in unknown]
        )
