"""Encoder of texts as token ids.

The tokenizer is one of transformers, by duck typing.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from ranksieve.search.errors import InputError
from ranksieve.workers.data.choices import Question
from ranksieve.workers.data.conversation import turns_of
from ranksieve.workers.data.templates import cpu_s_of
from ranksieve.workers.machine.child import step

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = tuple[int, ...]

CHAT_DAY = datetime(2025, 1, 1, tzinfo=UTC)
"""Date that chat templates see as today.

A task must not change overnight.
"""

_TODAY = re.compile(r"""strftime_now\((["'])(.*?)\1\)""")

_ANCHOR = ":"
_MARK = "marked-answer"


@dataclass(frozen=True, slots=True)
class Coder:
    """Encoder of texts as token ids, in batches.

    Prompts start with the tokenizer's special tokens.
    """

    tokenizer: "PreTrainedTokenizerBase"
    chat_template: bool
    context_length: int | None

    def __post_init__(self) -> None:
        if self.chat_template and not self.tokenizer.chat_template:
            raise InputError(
                "task.chat_template", "the model's tokenizer has no chat template; set chat_template to false"
            )

    def prompts(self, questions: Sequence[Question]) -> list[Ids]:
        """Return the token ids of the questions' prompts.

        If the task uses the chat template, a text is the user's message, and the assistant's turn begins after it.
        """
        if not self.chat_template:
            prefix = prefix_of(self.tokenizer)
            return [prefix + ids for ids in self._ids([str(question.prompt) for question in questions])]
        step("task.chat_template", "rendering the model's chat template", cpu_s_of(len(questions)))
        texts = [
            self._wrapped(turns_of(question.prompt), question.name, add_generation_prompt=True)
            for question in questions
        ]
        step("model", f"tokenizing {len(questions):,} records")
        return self._ids(texts)

    def answers(self, texts: Sequence[str], *, after_prompt: bool = True) -> list[Ids]:
        """Return token ids of texts without special tokens, as they read after a prompt.

        Sentencepiece tokenizers mark the start of a text with a space, which is absent in the middle of a text. So
        the text is read after an anchor, unless the two merge into one token.
        """
        plain = self._ids(texts)
        if not after_prompt:
            return plain
        (anchor,) = self._ids([_ANCHOR])
        inside = self._ids([_ANCHOR + text for text in texts])
        return [
            ids[len(anchor) :] if ids[: len(anchor)] == anchor else alone
            for ids, alone in zip(inside, plain, strict=True)
        ]

    def end(self) -> Ids:
        """Return the token that a model writes after an answer.

        This is the end of its turn in the chat, or else the end of a sequence.
        """
        eos = self.tokenizer.eos_token_id
        known: Ids = () if eos is None else (eos,)
        if not self.chat_template:
            return known
        turns = [{"role": "user", "content": _ANCHOR}, {"role": "assistant", "content": _MARK}]
        step("task.chat_template", "rendering the model's chat template", cpu_s_of(1))
        try:
            after = self._wrapped(turns, "an answer").rpartition(_MARK)[2]
        except InputError:  # the template takes no answers
            return known
        step("model", "tokenizing the end of an answer")
        (ids,) = self._ids([after])
        special = set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder)
        return next(((id,) for id in ids if id in special), known)

    def _wrapped(self, turns: list[dict[str, str]], name: str, **options: Any) -> str:
        try:
            template = _of_one_day(self.tokenizer.get_chat_template())
            return str(
                self.tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, **options)
            )
        except InputError:
            raise
        except Exception as error:  # a template is a program, and may not even be a text
            raise InputError(
                "task.chat_template", f"the model's chat template fails at {name}: {error}"
            ) from error

    def check_length(self, length: int, question: Question, at: str, what: str) -> None:
        """Raise if a row of `length` tokens exceeds the model's context."""
        if self.context_length is not None and length > self.context_length:
            raise InputError(
                at,
                f"{question.name} has {what}: {length:,} tokens, more than the model's context of "
                f"{self.context_length:,}; shorten the text in the template, e.g. {{{{ text[:2000] }}}}, or "
                "leave the record out",
            )

    def _ids(self, texts: Sequence[str]) -> list[Ids]:
        distinct = list(dict.fromkeys(texts))
        try:
            coded = self.tokenizer(distinct, add_special_tokens=False, verbose=False)["input_ids"]
        except Exception as error:  # the library has no exception of its own
            raise InputError("model", f"its tokenizer cannot read the records: {error}") from error
        by_text = dict(zip(distinct, map(tuple, coded), strict=True))
        return [by_text[text] for text in texts]


@cache
def _of_one_day(template: str) -> str:
    """Return a chat template with `CHAT_DAY` instead of the present date."""
    dated = _TODAY.sub(lambda call: json.dumps(CHAT_DAY.strftime(call[2])), template)
    if "strftime_now(" in dated:
        raise InputError(
            "task.chat_template",
            "the model's chat template prints the date in an unknown way, so the task would change overnight; write "
            "the template's text into task.prompt and set chat_template to false",
        )
    return dated


def prefix_of(tokenizer: "PreTrainedTokenizerBase") -> Ids:
    """Return the special tokens that this tokenizer puts before a text.

    Special tokens after the text would end the prompt.
    """
    plain = tuple(tokenizer(_ANCHOR, add_special_tokens=False)["input_ids"])
    full = tuple(tokenizer(_ANCHOR)["input_ids"])
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return full[:start]
    raise InputError(
        "model", f"the tokenizer reads {_ANCHOR!r} as {plain} alone but as {full} with special tokens"
    )
