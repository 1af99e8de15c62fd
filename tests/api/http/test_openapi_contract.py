"""Whatever the OpenAPI document allows, and what it does not, made into requests: the answers are those it promises."""

from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis.config import SchemathesisConfig
from schemathesis.python.asgi import HOST
from starlette.types import ASGIApp, Receive, Scope, Send

from ranksieve.api.http.app import create_app
from ranksieve.service.application import Application
from ranksieve.service.run.controller import Controller
from ranksieve.service.run.feed import Feed
from ranksieve.service.server.settings import Settings
from ranksieve.service.store import Store

KEY = "s3cret"
HEADERS = {"Authorization": f"Bearer {KEY}"}
EXAMPLES = 15 if hypothesis.settings.get_current_profile_name() == "campaign" else 3
# Of the server there may be one for all examples.
SOME = hypothesis.settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Relay:
    """The application under test, which has to be there before it is made: tests are collected from its document.

    It keeps the life of the service to itself: schemathesis would never end that.
    """

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return
        for event in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{event}.complete"})


def _document() -> dict[str, Any]:
    def unused(*_: Any) -> Any:
        raise AssertionError

    settings = Settings(data_dir=Path("unused"))
    store = Store(settings.store_url)
    controller = Controller(store, unused, settings.jobs_dir)
    return create_app(Application(settings, store, controller, Feed(), unused, unused)).openapi()


def _config() -> SchemathesisConfig:
    """All checks, with more answers that are right: a body too large is a refusal like any other. And what a job
    file's fields demand of each other, where a URL leads, which sizes a job has found, or what goes with what in a
    query, is more than JSON Schema can say: what that allows may be refused by a 422.
    """
    refused = ["400", "401", "403", "404", "405", "409", "413", "415", "422", "429"]
    accepted = ["2xx", "401", "403", "404", "409", "422"]
    demanding = [
        {
            "include-operation-id": operation,
            "checks": {"positive_data_acceptance": {"expected-statuses": accepted}},
        }
        for operation in (
            "submit",
            "estimate",
            "change",
            "export",
            "candidates",
            "generations",
            "create_webhook",
            "change_webhook",
        )
    ]
    return SchemathesisConfig.from_dict(
        {"checks": {"negative_data_rejection": {"expected-statuses": refused}}, "operations": demanding}
    )


relay = Relay()
schema = schemathesis.openapi.from_dict(_document(), config=_config())
schema.app = relay


@pytest.fixture(autouse=True, scope="module")
def _server(share) -> None:
    """A running server with a key, whose jobs are done in no time."""
    relay.app = share(api_key=KEY, allowed_hosts=[HOST], webhooks=1000).app


@schema.parametrize()
@SOME
def test_every_answer_is_one_that_openapi_promises(case):
    case.call_and_validate(headers=HEADERS)


class Journey(schema.as_state_machine()):
    """Requests that go on from the answers to others, by the links in the document."""

    def get_call_kwargs(self, case):
        return {"headers": HEADERS}


def test_every_journey_through_the_api_keeps_its_promises():
    Journey.run(settings=hypothesis.settings(SOME, stateful_step_count=8))
