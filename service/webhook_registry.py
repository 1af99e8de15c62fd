"""Webhooks as their owners create, change and test them: where they lead is checked, and the sender hears of it."""

from collections.abc import Sequence

from ranksieve.service.job.job import JobState
from ranksieve.service.server.settings import Settings
from ranksieve.service.store import Store
from ranksieve.service.webhooks.sender import Sender
from ranksieve.service.webhooks.targets import target_of
from ranksieve.service.webhooks.webhook import Delivery, Webhook


class WebhookRegistry:
    """Creates, changes and tests webhooks.

    Args:
        store: Where they are.
        settings: Which hosts they may lead to, and how many an owner may have.
        sender: Sends to them; None where nothing is sent.
    """

    def __init__(self, store: Store, settings: Settings, sender: Sender | None) -> None:
        self._store = store
        self._settings = settings
        self._sender = sender

    def create(
        self, owner: str, url: str, states: Sequence[JobState], *, enabled: bool = True
    ) -> tuple[Webhook, str]:
        """Create a webhook; returns it and its secret. See `store.webhooks`.

        Raises:
            InputError: It may not lead there.
            LimitError: The owner has as many webhooks as one may have.
        """
        target_of(url, self._settings.webhook_hosts)
        return self._store.webhooks.create(owner, url, states, enabled=enabled, most=self._settings.webhooks)

    def change(
        self,
        id: str,
        owner: str | None = None,
        *,
        url: str | None = None,
        states: Sequence[JobState] | None = None,
        enabled: bool | None = None,
    ) -> Webhook:
        """Change what is given of a webhook. See `store.webhooks`.

        Raises:
            NotFoundError: There is no such webhook.
            InputError: It may not lead there.
        """
        if url is not None:
            target_of(url, self._settings.webhook_hosts)
        webhook = self._store.seen_by(owner).webhooks.change(id, url=url, states=states, enabled=enabled)
        self._wake_sender()
        return webhook

    def test(self, id: str, owner: str | None = None) -> Delivery:
        """Send a webhook an event of nothing; returns the delivery, on its way. See `store.webhooks`.

        Raises:
            NotFoundError: There is no such webhook.
            ConflictError: It is disabled.
        """
        delivery = self._store.seen_by(owner).webhooks.test(id)
        self._wake_sender()
        return delivery

    def _wake_sender(self) -> None:
        if self._sender is not None:
            self._sender.wake()
