from typing import Any

import pytest

from ranksieve.search.errors import InputError
from ranksieve.workers.data.conversation import conversation, turns_of

NAME = "record 3 of chats.jsonl"
ASKED = {"role": "user", "content": "What is it?"}


def test_a_text_is_the_users_message() -> None:
    assert turns_of("What is it?") == [ASKED]


def test_messages_are_reduced_to_what_a_chat_template_reads() -> None:
    system = {"role": "system", "content": "Be brief.", "weight": 0, "tool_calls": None}
    turns = [system, ASKED, {"role": "assistant", "content": ""}, {"role": "tool", "content": "7"}]
    assert turns_of(conversation(turns, NAME)) == [
        {"role": turn["role"], "content": turn["content"]} for turn in turns
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "record 3 of chats.jsonl has no messages before its answer"),
        (["What is it?"], "message 1 of record 3 of chats.jsonl must be a mapping .* got a text; .* join"),
        ([ASKED, None], "message 2 of .* must be a mapping with role and content, got null"),
        ([{"from": "human", "value": "What?"}], "must have a text as role, got only from, value"),
        ([{}], "must have a text as role, got only nothing"),
        ([{"role": "user", "content": None}], "must have a text as content, got null"),
        ([{"role": "user", "content": [{"type": "text"}]}], "must have a text as content, got a list"),
        ([{"role": 1, "content": ""}], "must have a text as role, got a number"),
        (
            [{"role": "assistant", "content": "", "tool_calls": [{}]}, ASKED],
            "message 1 of .* has tool_calls, but only role and content are read",
        ),
        (
            [ASKED, {"role": "assistant", "content": "A film."}],
            r"ends with a message of the assistant.*\[:-1\]",
        ),
    ],
)
def test_what_is_no_conversation_names_the_message(values: list[Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        conversation(values, NAME)
    assert caught.value.field == "task.prompt"
