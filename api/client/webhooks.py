"""Client's methods for webhooks: `client.webhooks`."""

import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from ranksieve.api.client.connection import Connection

TEST_S = 15.0
"""Seconds to wait for the outcome of a test; an attempt takes at most 10."""

_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.05, 1.0


class Webhooks:
    """Webhooks of one server.

    Args:
        connection: Makes the requests.
        wait: Called with the seconds to wait before a delivery is read again.
    """

    def __init__(self, connection: Connection, wait: Callable[[float], None]) -> None:
        self._connection = connection
        self._wait = wait

    def create(self, url: str, states: Sequence[str] | None = None) -> dict[str, Any]:
        """Create a webhook and return it with its secret, which is not shown again.

        Args:
            url: URL to send to.
            states: Job states to send; None for those that end a job.

        Raises:
            ApiError: The URL is not allowed, or there are too many webhooks.
        """
        body: dict[str, Any] = {"url": url} if states is None else {"url": url, "states": list(states)}
        return self._connection.request("POST", "/v1/webhooks", json=body)

    def all(self) -> list[dict[str, Any]]:
        """Return all webhooks, oldest first."""
        return list(self._connection.request("GET", "/v1/webhooks")["webhooks"])

    def get(self, webhook_id: str) -> dict[str, Any]:
        """Return one webhook."""
        return self._connection.request("GET", _path(webhook_id))

    def change(self, webhook_id: str, **changes: Any) -> dict[str, Any]:
        """Change any of `url`, `states` and `enabled`, and return the webhook."""
        return self._connection.request("PATCH", _path(webhook_id), json=changes)

    def rotate(self, webhook_id: str, *, grace_hours: int = 0) -> dict[str, Any]:
        """Replace a webhook's secret and return the webhook with the new one.

        The old secret stays valid for `grace_hours`.
        """
        return self._connection.request(
            "POST", _path(webhook_id, "rotate"), json={"grace_hours": grace_hours}
        )

    def delete(self, webhook_id: str) -> None:
        """Delete a webhook with its deliveries."""
        self._connection.send("DELETE", _path(webhook_id))

    def deliveries(
        self, webhook_id: str, *, limit: int = 50, after: str | None = None
    ) -> list[dict[str, Any]]:
        """Return the deliveries to a webhook, newest first.

        `after` is the id of the last delivery already seen.
        """
        params = {"limit": limit} if after is None else {"limit": limit, "after": after}
        return list(
            self._connection.request("GET", _path(webhook_id, "deliveries"), params=params)["deliveries"]
        )

    def test(self, webhook_id: str) -> dict[str, Any]:
        """Send a test event to a webhook and return its delivery.

        Waits until the delivery is over, at most `TEST_S`.

        Raises:
            ApiError: There is no such webhook, or it is disabled.
        """
        delivery = self._connection.request("POST", _path(webhook_id, "test"))
        delay_s, deadline_s = _FIRST_DELAY_S, time.monotonic() + TEST_S
        while delivery["state"] == "pending" and time.monotonic() < deadline_s:
            self._wait(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
            delivery = next(
                (one for one in self.deliveries(webhook_id) if one["id"] == delivery["id"]), delivery
            )
        return delivery


def _path(webhook_id: str, *parts: str) -> str:
    return "/v1/webhooks/" + "/".join(quote(part, safe="") for part in (webhook_id, *parts))
