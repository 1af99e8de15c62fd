"""Dependency that gives a route its application."""

from typing import Annotated

from fastapi import Depends, Request

from ranksieve.service.application import Application


async def _application(request: Request) -> Application:
    application = request.app.state.application
    assert isinstance(application, Application)
    return application


TheApplication = Annotated[Application, Depends(_application)]
