"""Prompts: a text, or the messages of a conversation that a chat template takes.

Knows nothing of tokenizers. Which roles there are, and in which order, is up to the model's chat template.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ranksieve.search.errors import InputError

FIELD = "task.prompt"

Message = Mapping[str, str]
"""`role` and `content`."""

Prompt = str | tuple[Message, ...]


def turns_of(prompt: Prompt) -> list[dict[str, str]]:
    """Return a prompt as a conversation: a text is the user's only message."""
    messages = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else prompt
    return [dict(message) for message in messages]


def conversation(values: Sequence[Any], name: str) -> tuple[Message, ...]:
    """Return the messages of a record's prompt, reduced to `role` and `content`.

    Args:
        values: What the template of the prompt gives.
        name: Name of the record in messages, e.g. `record 3 of chats.jsonl`.

    Raises:
        InputError: On `task.prompt`, if there is no message, one is not of this form, or the last one is the
            assistant's.
    """
    if not values:
        raise InputError(FIELD, f"{name} has no messages before its answer; leave the record out")
    messages = tuple(_message(value, f"message {number} of {name}") for number, value in enumerate(values, 1))
    if messages[-1]["role"] == "assistant":
        raise InputError(
            FIELD,
            f"{name} ends with a message of the assistant, which the model would have to continue; end with what it "
            "answers to, e.g. {{ messages[:-1] }}",
        )
    return messages


def _message(value: Any, name: str) -> Message:
    if not isinstance(value, dict):
        raise InputError(
            FIELD,
            f"{name} must be a mapping with role and content, got {_kind_of(value)}; for a text, join the list, e.g. "
            "{{ words | join(' ') }}",
        )
    for key in ("role", "content"):
        if not isinstance(value.get(key), str):
            got = _kind_of(value[key]) if key in value else f"only {', '.join(map(str, value)) or 'nothing'}"
            raise InputError(
                FIELD, f"{name} must have a text as {key}, got {got}; leave the record out or rewrite it"
            )
    if value.get("tool_calls"):
        raise InputError(
            FIELD, f"{name} has tool_calls, but only role and content are read; write the calls into content"
        )
    return {"role": value["role"], "content": value["content"]}


def _kind_of(value: Any) -> str:
    """Return the name of a JSON value's type, with its article."""
    names = {dict: "a mapping", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
