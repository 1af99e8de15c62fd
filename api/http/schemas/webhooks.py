"""Bodies of webhooks: requests about them, and messages sent to them."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from ranksieve.api.http.schemas.common import Shown
from ranksieve.api.http.schemas.jobs import JobErrorBody
from ranksieve.service.job.job import JobState
from ranksieve.service.spec import Strict
from ranksieve.service.webhooks.targets import LONGEST_URL, URL
from ranksieve.service.webhooks.webhook import ENDS, DeliveryState

Url = Annotated[str, StringConstraints(pattern=URL, max_length=LONGEST_URL)]
States = Annotated[
    list[Annotated[JobState, Field(strict=False)]], Field(min_length=1, max_length=len(JobState))
]
_URL = "Target: https on the public internet, unless the server's operator trusts the name."
_STATES = "Job states to send; by default, those that end a job."
_ENABLED = "Whether anything is sent to it."


class NewWebhook(Strict):
    """Webhook to create."""

    url: Url = Field(description=_URL)
    states: States = Field(default=list(ENDS), description=_STATES)
    enabled: bool = Field(default=True, description=_ENABLED)


class WebhookChanges(Strict):
    """Changes to a webhook; omitted fields stay as they are."""

    url: Url = Field(default_factory=str, description=_URL)
    states: States = Field(default_factory=list, description=_STATES)
    enabled: bool = Field(default_factory=bool, description=_ENABLED)


class WebhookBody(Shown):
    """Webhook, without its secret."""

    id: str
    owner: str = Field(description="Owner of the jobs it is notified of.")
    url: str
    states: list[JobState]
    enabled: bool
    disabled_reason: str | None = Field(description="Why the server disabled it; null where it did not.")
    created_at: datetime
    delivered_at: datetime | None = Field(description="Time of the last successful delivery.")


class SecretWebhookBody(WebhookBody):
    """Webhook with a new secret."""

    secret: str = Field(description="Key that signs its deliveries. Shown once.")


class WebhookList(BaseModel):
    """Webhooks, oldest first."""

    webhooks: list[WebhookBody]


class DeliveryBody(Shown):
    """Event on its way to a webhook."""

    id: str = Field(description="`webhook-id` of every attempt.")
    type: str
    job_id: str | None
    state: DeliveryState
    attempts: int
    created_at: datetime
    due_at: datetime | None = Field(description="Time of the next attempt; null once the delivery is over.")
    finished_at: datetime | None
    status: int | None = Field(description="HTTP status of the last answer.")
    error: str | None = Field(description="Error of the last attempt.")


class DeliveryPage(BaseModel):
    """Page of deliveries, newest first."""

    deliveries: list[DeliveryBody]
    next: str | None = Field(description="Value of `after` for the next page; null on the last one.")


class JobNews(BaseModel):
    """Job at the moment of its change of state.

    Its result is at `GET /v1/jobs/{id}`.
    """

    id: str
    seq: int = Field(description="Number of the event of the job; deliveries may come in another order.")
    owner: str
    parent: str | None
    name: str
    labels: dict[str, str]
    state: JobState
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: JobErrorBody | None


class JobMessage(BaseModel):
    """Message to a webhook about a job's change of state."""

    type: str = Field(description="`job.` and the state, e.g. `job.succeeded`.")
    timestamp: datetime
    data: JobNews


class WebhookTestNews(BaseModel):
    """Content of a test message: the tested webhook."""

    webhook_id: str


class WebhookTest(BaseModel):
    """Test message to a webhook."""

    type: Literal["webhook.test"]
    timestamp: datetime
    data: WebhookTestNews
