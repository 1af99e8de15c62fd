"""Caller of a route, and the jobs visible to it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request

from ranksieve.api.http.routes.application import TheApplication
from ranksieve.service.application import Application
from ranksieve.service.job.job import Job
from ranksieve.service.server.keys import Principal, Scope
from ranksieve.service.store import View


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Application as one caller may use it.

    `is_still_good` returns whether the caller's key is still valid.
    """

    application: Application
    principal: Principal
    is_still_good: Callable[[], bool]

    @property
    def jobs(self) -> View:
        """Jobs visible to the caller."""
        return self.application.store.seen_by(self.principal.sees)

    def shown(self, value: Any) -> Any:
        """Return plain JSON values as the caller may see them.

        The admin alone sees paths of the server.
        """
        return value if self.principal.sees is None else self.application.for_users(value)

    def shown_job(self, job: Job) -> Job:
        """Return a job as the caller may see it.

        Its spec has the paths that its owner gave.
        """
        error = job.error and replace(job.error, message=self.shown(job.error.message))
        return replace(job, error=error, result=self.shown(job.result))


def _caller(scope: Scope) -> Callable[[Request, Application], Awaitable[Caller]]:
    """Make a dependency that requires a key of `scope` and returns its caller."""

    async def caller(request: Request, application: TheApplication) -> Caller:
        principal: Principal = request.state.principal  # set by `Gate`
        if not principal.scope.includes(scope):
            raise HTTPException(
                HTTPStatus.FORBIDDEN,
                f"needs a key of scope {scope}; this one is {principal.owner}'s, of scope {principal.scope}",
            )
        return Caller(application=application, principal=principal, is_still_good=request.state.is_still_good)

    return caller


Reader = Annotated[Caller, Depends(_caller(Scope.READ))]
Submitter = Annotated[Caller, Depends(_caller(Scope.SUBMIT))]
Admin = Annotated[Caller, Depends(_caller(Scope.ADMIN))]
