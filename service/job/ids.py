"""Ids of jobs, webhooks and deliveries."""

import secrets
import time


def new_id() -> str:
    """Return 24 hex digits that sort by time.

    14 are of the clock in microseconds, 10 are random.
    """
    return f"{time.time_ns() // 1000:014x}{secrets.token_hex(5)}"
