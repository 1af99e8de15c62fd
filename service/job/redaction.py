"""Removal of secrets from text that others read: logs, events, errors.

API keys, tokens of the hub, secrets of webhooks, values of `Authorization` and passwords in URLs are recognized by
their form.
"""

import re
from collections.abc import Iterable
from typing import Any

_GONE = "[redacted]"
_FORMS = (
    (re.compile(r"\brsk_([0-9a-f]{12})_[A-Za-z0-9_-]{43}"), rf"rsk_\1_{_GONE}"),
    (re.compile(r"\b(hf|whsec)_[A-Za-z0-9+/=_-]{16,}"), rf"\1_{_GONE}"),
    (re.compile(r"\b(Bearer|Basic)(\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\1\2{_GONE}"),
    (re.compile(r"(://[^\s:/@\"']*):[^\s/@\"']+@"), rf"\1:{_GONE}@"),
    (re.compile(r"([?&](?:ssl)?password=)[^\s&\"']+", re.IGNORECASE), rf"\1{_GONE}"),
)
"""Forms of secrets; each reads any text once, such as a log line of 60 KB."""


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return the text without secrets.

    The id of an API key and the name in a URL stay, to identify them.

    Args:
        text: Any text.
        secrets: More secrets, which have no recognizable form.
    """
    for secret in secrets:
        text = text.replace(secret, _GONE)
    for form, instead in _FORMS:
        text = form.sub(instead, text)
    return text


def redact_values(value: Any) -> Any:
    """Return plain JSON values with every text redacted; keys stay."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_values(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redact_values(inner) for inner in value]
    return value
