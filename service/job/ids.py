"""Names of what is made one after another: jobs, webhooks, deliveries."""

import secrets
import time


def new_id() -> str:
    """24 hex digits that sort by time: 14 of the clock in microseconds, 10 of chance."""
    return f"{time.time_ns() // 1000:014x}{secrets.token_hex(5)}"
