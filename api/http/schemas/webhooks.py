"""The bodies of webhooks: what is asked of this server about them, and what it sends to them."""

from datetime import datetime
from typing import Annotated, Any, Literal

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
_URL = "Where it leads: https, to the public internet, unless the server's operator trusts the name."
_STATES = "A job that comes to one of these is told of; by default, those that end it."
_ENABLED = "Whether it is told of anything."


class NewWebhook(Strict):
    """The webhook to make."""

    url: Url = Field(description=_URL)
    states: States = Field(default=list(ENDS), description=_STATES)
    enabled: bool = Field(default=True, description=_ENABLED)


class WebhookChanges(Strict):
    """What is to be changed of a webhook; what is left out stays as it is."""

    url: Url = Field(default_factory=str, description=_URL)
    states: States = Field(default_factory=list, description=_STATES)
    enabled: bool = Field(default_factory=bool, description=_ENABLED)

    def given(self) -> dict[str, Any]:
        """The changes."""
        return self.model_dump(exclude_unset=True)


class WebhookBody(Shown):
    """A webhook, without its secret."""

    id: str
    owner: str = Field(description="Whose jobs it is told of.")
    url: str
    states: list[JobState]
    enabled: bool
    disabled_reason: str | None = Field(description="Why the server disabled it; null where it did not.")
    created_at: datetime
    delivered_at: datetime | None = Field(description="When a delivery last arrived.")


class SecretWebhookBody(WebhookBody):
    """A webhook with a new secret."""

    secret: str = Field(description="What its deliveries are signed with. It is shown once.")


class WebhookList(BaseModel):
    """Webhooks, oldest first."""

    webhooks: list[WebhookBody]


class DeliveryBody(Shown):
    """One event on its way to a webhook."""

    id: str = Field(description="`webhook-id` of every attempt.")
    type: str
    job_id: str | None
    state: DeliveryState
    attempts: int
    created_at: datetime
    due_at: datetime | None = Field(description="When it is next tried; null once it is over.")
    finished_at: datetime | None
    status: int | None = Field(description="HTTP status of the last answer.")
    error: str | None = Field(description="What was wrong with the last attempt.")


class DeliveryPage(BaseModel):
    """A page of deliveries, newest first."""

    deliveries: list[DeliveryBody]
    next: str | None = Field(description="Value of `after` for the next page; null on the last one.")


class JobNews(BaseModel):
    """A job at the moment it came to a state; its result is at `GET /v1/jobs/{id}`."""

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
    """What a webhook is sent when a job has come to a state."""

    type: str = Field(description="`job.` and the state, e.g. `job.succeeded`.")
    timestamp: datetime
    data: JobNews


class WebhookTestNews(BaseModel):
    """Nothing but the webhook that was to be tested."""

    webhook_id: str


class WebhookTest(BaseModel):
    """What a webhook is sent as a test."""

    type: Literal["webhook.test"]
    timestamp: datetime
    data: WebhookTestNews
