"""Webhooks: create, list, change, test, rotate, delete; and their deliveries."""

from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic.json_schema import SkipJsonSchema

from ranksieve.api.http.errors import responses
from ranksieve.api.http.requests.json_bodies import JsonRoute
from ranksieve.api.http.routes.caller import Reader, Submitter
from ranksieve.api.http.routes.links import WEBHOOK_LINKS
from ranksieve.api.http.schemas.common import After
from ranksieve.api.http.schemas.keys import Rotation
from ranksieve.api.http.schemas.webhooks import (
    DeliveryBody,
    DeliveryPage,
    JobMessage,
    NewWebhook,
    SecretWebhookBody,
    WebhookBody,
    WebhookChanges,
    WebhookList,
    WebhookTest,
)
from ranksieve.service.webhooks.targets import target_of

router = APIRouter(prefix="/webhooks", tags=["webhooks"], route_class=JsonRoute)
sent = APIRouter(tags=["webhooks"])
"""Requests that this server sends, for OpenAPI."""

_RECEIVED: dict[int | str, dict[str, Any]] = {
    204: {"description": "Received; any 2xx means that."},
    410: {"description": "Gone: the webhook is disabled."},
    "default": {"description": "Failed: the event is sent again, unless it is a test."},
}
_FOUND = responses(HTTPStatus.NOT_FOUND)
_CHANGED = responses(HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND)


@router.post(
    "",
    status_code=HTTPStatus.CREATED,
    responses={
        201: {"description": "The webhook.", "links": WEBHOOK_LINKS},
        **responses(HTTPStatus.FORBIDDEN, HTTPStatus.CONFLICT),
    },
)
def create_webhook(new: NewWebhook, submitter: Submitter, response: Response) -> SecretWebhookBody:
    """Create a webhook for the jobs of its owner; only this answer has its secret."""
    settings = submitter.application.settings
    target_of(new.url, settings.webhook_hosts)
    webhook, secret = submitter.jobs.webhooks.create(
        submitter.principal.owner, new.url, new.states, enabled=new.enabled, most=settings.webhooks
    )
    response.headers["Location"] = f"/v1/webhooks/{webhook.id}"
    return SecretWebhookBody.of(webhook, secret=secret)


@router.get("")
def list_webhooks(reader: Reader) -> WebhookList:
    """List webhooks, oldest first."""
    return WebhookList(webhooks=[WebhookBody.of(one) for one in reader.jobs.webhooks.all()])


@router.get("/{webhook_id}", responses=_FOUND)
def webhook(webhook_id: str, reader: Reader) -> WebhookBody:
    """Show a webhook, and why the server disabled it, if it did."""
    return WebhookBody.of(reader.jobs.webhooks.get(webhook_id))


@router.patch("/{webhook_id}", responses=_CHANGED)
def change_webhook(webhook_id: str, changes: WebhookChanges, submitter: Submitter) -> WebhookBody:
    """Change a webhook's URL or states; disable or enable it.

    Enabling it sends its pending deliveries.
    """
    given = changes.model_dump(exclude_unset=True)
    if "url" in given:
        target_of(given["url"], submitter.application.settings.webhook_hosts)
    changed = submitter.jobs.webhooks.change(webhook_id, **given)
    submitter.application.wake_sender()
    return WebhookBody.of(changed)


@router.delete("/{webhook_id}", status_code=HTTPStatus.NO_CONTENT, responses=_CHANGED)
def delete_webhook(webhook_id: str, submitter: Submitter) -> None:
    """Delete a webhook with its deliveries; pending ones are dropped."""
    submitter.jobs.webhooks.delete(webhook_id)


@router.post("/{webhook_id}/rotate", responses=_CHANGED)
def rotate_webhook(webhook_id: str, rotation: Rotation, submitter: Submitter) -> SecretWebhookBody:
    """Replace the secret of a webhook.

    Deliveries are signed with both secrets while the old one is valid.
    """
    grace = timedelta(hours=rotation.grace_hours)
    rotated, secret = submitter.jobs.webhooks.rotate(webhook_id, grace)
    return SecretWebhookBody.of(rotated, secret=secret)


@router.post(
    "/{webhook_id}/test",
    status_code=HTTPStatus.ACCEPTED,
    responses={**_CHANGED, **responses(HTTPStatus.CONFLICT)},
)
def test_webhook(webhook_id: str, submitter: Submitter) -> DeliveryBody:
    """Send a test event to a webhook once; see its deliveries for the outcome."""
    delivery = submitter.jobs.webhooks.test(webhook_id)
    submitter.application.wake_sender()
    return DeliveryBody.of(delivery)


@router.get("/{webhook_id}/deliveries", responses=_FOUND)
def deliveries(
    webhook_id: str,
    reader: Reader,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    after: Annotated[After | SkipJsonSchema[None], Query(description="`next` of the previous page.")] = None,
) -> DeliveryPage:
    """List the deliveries to a webhook, newest first."""
    found = reader.jobs.webhooks.deliveries(webhook_id, limit=limit + 1, after=after)
    page, more = found[:limit], len(found) > limit
    return DeliveryPage(deliveries=[DeliveryBody.of(one) for one in page], next=page[-1].id if more else None)


@sent.post("job", status_code=HTTPStatus.NO_CONTENT, responses=_RECEIVED)
def job_event(message: JobMessage) -> None:
    """Receive a job's change of state; answer within 10 s.

    Headers: `webhook-id`, unchanged in retries; `webhook-timestamp`; `webhook-signature`, after
    https://www.standardwebhooks.com.
    """


@sent.post("test", status_code=HTTPStatus.NO_CONTENT, responses=_RECEIVED)
def test_event(message: WebhookTest) -> None:
    """Receive a test event, which a user asked for; it is sent once."""
