"""Creation, change and test of webhooks, with a check of where they lead."""

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
        store: Store of the webhooks.
        settings: Hosts that webhooks may lead to, and the most webhooks of one owner.
        sender: Sends to webhooks; None: nothing is sent.
    """

    def __init__(self, store: Store, settings: Settings, sender: Sender | None) -> None:
        self._store = store
        self._settings = settings
        self._sender = sender

    def create(
        self, owner: str, url: str, states: Sequence[JobState], *, enabled: bool = True
    ) -> tuple[Webhook, str]:
        """Create a webhook; return it and its secret. See `store.webhooks`.

        Raises:
            InputError: A webhook may not lead to this URL.
            LimitError: The owner has reached the limit of webhooks.
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
        """Change the given fields of a webhook. See `store.webhooks`.

        Raises:
            NotFoundError: There is no such webhook.
            InputError: A webhook may not lead to this URL.
        """
        if url is not None:
            target_of(url, self._settings.webhook_hosts)
        webhook = self._store.seen_by(owner).webhooks.change(id, url=url, states=states, enabled=enabled)
        self._wake_sender()
        return webhook

    def test(self, id: str, owner: str | None = None) -> Delivery:
        """Send a test event to a webhook; return its delivery. See `store.webhooks`.

        Raises:
            NotFoundError: There is no such webhook.
            ConflictError: The webhook is disabled.
        """
        delivery = self._store.seen_by(owner).webhooks.test(id)
        self._wake_sender()
        return delivery

    def _wake_sender(self) -> None:
        if self._sender is not None:
            self._sender.wake()
