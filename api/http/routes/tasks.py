"""Kinds of tasks that a job file may name."""

from fastapi import APIRouter

from ranksieve.api.http.routes.caller import Reader
from ranksieve.api.http.schemas.server import TaskKindBody, TaskKindList
from ranksieve.service.server.tasks import task_kinds

router = APIRouter(prefix="/tasks", tags=["capabilities"])


@router.get("")
def tasks(reader: Reader) -> TaskKindList:
    """List the kinds of tasks: meaning, fields of `task`, metric and an example."""
    return TaskKindList(tasks=[TaskKindBody.model_validate(kind) for kind in task_kinds()])
