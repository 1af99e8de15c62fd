"""Choices of `choice` tasks: the options of a record, and the right one.

Knows nothing of prompts or models. Fixed choices come from the job file. A record's own choices come from the field
that `task.choices` names: a list of texts, or lists `text` and `label` of equal length.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from string import ascii_uppercase
from types import MappingProxyType
from typing import Any

from ranksieve.search.errors import InputError
from ranksieve.workers.data.conversation import Prompt
from ranksieve.workers.types.plan import TaskPlan

FIELD = "task.choices"


@dataclass(frozen=True, slots=True)
class Question:
    """One chosen record, rendered.

    `answers` are the texts of the answer template: one, or several for `generate`.
    """

    name: str
    prompt: Prompt
    answers: tuple[str, ...]
    record: Mapping[str, Any]

    @property
    def answer(self) -> str:
        """The first answer, or the label for `choice`."""
        return self.answers[0]


@dataclass(frozen=True, slots=True)
class Options:
    """The answers that a record offers, and their names if any."""

    texts: tuple[str, ...]
    names: tuple[str, ...] = ()


Reading = Callable[[str, Options], int | None]


def options_of(record: Mapping[str, Any], options_field: str, name: str) -> Options:
    """Return a record's own options.

    Args:
        record: Field → value.
        options_field: Field that holds the options.
        name: Name of the record in messages.

    Raises:
        InputError: On `task.choices`, if options are missing or not a list of at least two texts.
    """
    if options_field not in record:
        fields = ", ".join(map(str, record))
        raise InputError(FIELD, f"{name} has no field {options_field!r}; it has {fields}")
    value = record[options_field]
    texts: Any = value.get("text") if isinstance(value, dict) else value
    names: Any = value.get("label", ()) if isinstance(value, dict) else ()
    if not _are_texts(texts) or len(texts) < 2:
        raise InputError(
            FIELD,
            f"{options_field} of {name} must be a list of at least 2 texts, got {_short(value)}; csv has no "
            "lists, use .jsonl or .parquet",
        )
    if names and (not _are_texts(names) or len(names) != len(texts)):
        raise InputError(
            FIELD, f"{options_field} of {name} needs one label for each text, got {_short(value)}"
        )
    return Options(tuple(map(str, texts)), tuple(map(str, names)))


def labelled(task: TaskPlan, questions: Sequence[Question]) -> tuple[list[Options], list[int]]:
    """Return each question's options, and the index of the right one.

    A label of a record's own options may be the option's text, its label, a letter or an index from 0. All records
    are read in the same way, the first that fits every record: "1" may be the index of one record's options and the
    text of another's.

    Raises:
        InputError: On `task.answer`, naming the first record whose label is not a choice.
    """
    if task.choices is not None:
        fixed = Options(tuple(task.choices.values()), tuple(task.choices))
        options, readings = [fixed] * len(questions), {"label": _by_name}
    else:
        options_field = str(task.choices_field)
        options = [options_of(question.record, options_field, question.name) for question in questions]
        readings = dict(_READINGS)
    attempts = [
        [
            _place(reading, question.answer, option)
            for question, option in zip(questions, options, strict=True)
        ]
        for reading in readings.values()
    ]
    best = min(attempts, key=lambda labels: labels.count(None))
    if None in best:
        odd = best.index(None)
        raise InputError("task.answer", _no_choice(questions[odd], options[odd], readings))
    return options, [label for label in best if label is not None]


def check_tokens(
    choices: Sequence[tuple[int, ...]], options: Options, question: Question, task: TaskPlan
) -> None:
    """Raise unless the model can tell the choices apart.

    Each choice must have tokens, and no two may have the same. An answer is as likely as its tokens, whatever would
    follow, so one that begins with another can never win. That is refused for fixed choices, which can be given an
    end mark. A record's own options cannot be changed.

    Args:
        choices: Token ids of each option, in order.
        options: Texts of the options.
        question: Question that the options belong to.
        task: Task, which says whether the options are fixed.
    """
    seen: dict[tuple[int, ...], str] = {}
    for ids, text in zip(choices, options.texts, strict=True):
        if not ids:
            raise InputError(FIELD, f"choice {text!r} of {question.name} has no tokens; give it a text")
        if ids in seen:
            raise InputError(
                FIELD,
                f"choices {seen[ids]!r} and {text!r} of {question.name} are the same tokens to the model; "
                "make them differ",
            )
        seen[ids] = text
    # sorted, ids that begin with others directly follow them
    for start, ids in pairwise(sorted(seen)) if task.choices is not None else ():
        if ids[: len(start)] == start:
            text, longer = seen[start], seen[ids]
            raise InputError(
                FIELD,
                f"choice {longer!r} begins with all tokens of {text!r}, so it can never be the likelier one; let both "
                f"end in the same mark, e.g. {text + '.'!r} and {longer + '.'!r}",
            )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str | int | float) for item in value)


def _place(reading: Reading, answer: str, options: Options) -> int | None:
    exact = reading(answer, options)
    return reading(answer.strip(), options) if exact is None else exact


def _by_text(value: str, options: Options) -> int | None:
    return options.texts.index(value) if value in options.texts else None


def _by_name(value: str, options: Options) -> int | None:
    return options.names.index(value) if value in options.names else None


def _by_letter(value: str, options: Options) -> int | None:
    place = ascii_uppercase.find(value.upper()) if len(value) == 1 else -1
    return place if 0 <= place < len(options.texts) else None


def _by_index(value: str, options: Options) -> int | None:
    indices = [str(index) for index in range(len(options.texts))]
    return indices.index(value) if value in indices else None


_READINGS: Mapping[str, Reading] = MappingProxyType(
    {"option text": _by_text, "option label": _by_name, "letter": _by_letter, "index from 0": _by_index}
)


def _no_choice(question: Question, options: Options, readings: Mapping[str, Reading]) -> str:
    return (
        f"{question.name} has the label {_short(question.answer)}, which is not one of "
        f"{_short(list(options.names or options.texts))}, read as {' or '.join(readings)}; "
        "fix the record, the choices or the answer template"
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:200] + "…"
