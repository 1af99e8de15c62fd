"""Removal of secrets from text that others read: logs, events, errors.

API keys, tokens of the hub, secrets of webhooks, values of `Authorization` and passwords in URLs are recognized by
their form. Paths of the server are recognized by the folders that it works in.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
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
    return _each_text(value, redact)


def hide_folders(value: Any, folders: Iterable[Path]) -> Any:
    """Return plain JSON values with paths relative to these folders.

    Keys stay.

    A folder itself is called by its last name.
    """
    longest_first = sorted({str(folder) for folder in folders if folder.name}, key=len, reverse=True)
    return _each_text(value, partial(_relative, folders=longest_first))


def _relative(text: str, folders: Iterable[str]) -> str:
    for folder in folders:
        text = text.replace(f"{folder}/", "").replace(folder, Path(folder).name)
    return text


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _each_text(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_each_text(inner, change) for inner in value]
    return value
