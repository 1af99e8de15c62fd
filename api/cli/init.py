"""`ranksieve init`: a commented job file, guessed from the columns of a data file."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from math import ceil
from pathlib import Path
from typing import Annotated, Any

import typer
from ruamel.yaml import YAML

from ranksieve.api.cli.spec_file import validated
from ranksieve.search.errors import InputError
from ranksieve.workers.data.records import first

RECORDS = 2000
"""Records to look at."""

MOST_CHOICES, LONGEST_CHOICE = 20, 40
"""Most different values of a column of labels, and their most characters."""

LABELS = ("label", "sentiment", "category", "class", "topic", "target", "answer", "output")
ANSWERS = ("answer", "output", "response", "completion", "target", "summary", "reference", "label")
"""Usual names of answer columns, the likeliest first."""

_JINJA = ("true", "false", "none", "record")
"""Words that a template does not read as a column, besides Python's keywords."""

app = typer.Typer()


CHATS = ("messages", "conversation", "chat")
"""Usual names of columns with conversations, the likeliest first."""

LEAST_TOKENS, MOST_TOKENS = 32, 1024
"""Bounds of a guessed `max_new_tokens`."""

CHARACTERS_PER_TOKEN = 3
"""A cautious guess, since `init` reads no tokenizer; English texts have about four."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Guess:
    """Task guessed from columns.

    `prompt` and `answer` are templates, the first empty for `lm`. `reasons` says where they come from.
    """

    kind: str
    answer: str
    prompt: str = ""
    choices: tuple[str, ...] = ()
    chat: bool = False
    max_new_tokens: int = LEAST_TOKENS
    reasons: tuple[str, ...]


@app.command()
def init(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="File ending in .jsonl, .csv or .parquet.")],
    model: Annotated[str, typer.Option(help="Hub id, folder or gguf file.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Job file to write.")] = Path(
        "job.yaml"
    ),
) -> None:
    """Write a job file for a data file, guessing the task from its columns."""
    if output.exists():
        raise InputError("output", f"{output} exists already; name another file with -o, or remove it")
    records = first(data, "data", RECORDS)
    guess = guess_task(records)
    folder = output.resolve().parent
    text = job_text(guess, list(records[0]), os.path.relpath(data.resolve(), folder), _model(model, folder))
    validated(YAML(typ="safe", pure=True).load(text))
    with output.open("x", encoding="utf-8") as file:
        file.write(text)
    typer.echo(f"{output} written. Guessed from the first {len(records):,} records of {data.name}:")
    for line in _summary(guess):
        typer.echo(f"  {line}")
    typer.echo("Check it, then see what it needs, and run it:")
    for command in ("estimate", "run"):
        typer.echo(f"  ranksieve {command} {output}{_root(data, folder)}")


def guess_task(records: Sequence[Mapping[str, Any]]) -> Guess:
    """Guess the task of such records.

    A column of messages that end with the assistant's is a chat, whose last message is the answer. Else few different
    short values in one column are labels to choose from, and the column with the longest texts is the prompt.

    Raises:
        InputError: No column has text in every record.
    """
    chats = [name for name in records[0] if all(_is_chat(record.get(name)) for record in records)]
    if chats:
        return _chat(min(chats, key=lambda name: _rank(name, CHATS)), records)
    full: dict[str, list[str]] = {}
    for name in records[0]:
        texts = [text for record in records if (text := _text(record.get(name))) is not None]
        if len(texts) == len(records):
            full[name] = texts
    if not full:
        raise InputError(
            "data",
            f"expected a column with text or numbers in every record, got {', '.join(records[0]) or 'no columns'}; "
            "fill the gaps, or write the job file by hand",
        )
    prompt = max(full, key=lambda name: sum(map(len, full[name])))
    others = {name: texts for name, texts in full.items() if name != prompt}
    if not others:
        reasons = (f"answer: column {prompt!r}",)
        return Guess(kind="lm", answer=_template(_column(prompt)), reasons=reasons)
    labels = [name for name, texts in others.items() if _are_labels(texts)]
    if labels:
        answer = min(labels, key=lambda name: (_rank(name, LABELS), len(set(others[name]))))
    else:
        answer = min(others, key=lambda name: (_rank(name, ANSWERS), -sum(map(len, others[name]))))
    return Guess(
        prompt=f"{_template(_column(prompt))}\n{_question(answer)}",
        answer=_template(_column(answer)),
        reasons=(f"prompt: column {prompt!r}, its texts are the longest", f"answer: column {answer!r}"),
        **_kind(others[answer]),
    )


def _chat(column: str, records: Sequence[Mapping[str, Any]]) -> Guess:
    """Return the task to write the last message of a conversation."""
    messages = _column(column)
    return Guess(
        prompt=_template(f"{messages}[:-1]"),
        answer=_template(f"{messages}[-1].content"),
        chat=True,
        reasons=(
            f"prompt: column {column!r} up to its last message, as a chat",
            f"answer: the last message of column {column!r}",
        ),
        **_kind([record[column][-1]["content"] for record in records]),
    )


def _kind(answers: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a guess that depend on the answers."""
    if _are_labels(answers):
        return {"kind": "choice", "choices": tuple(sorted(set(answers)))}
    tokens = LEAST_TOKENS * ceil(max(map(len, answers)) / CHARACTERS_PER_TOKEN / LEAST_TOKENS)
    return {"kind": "generate", "max_new_tokens": min(max(tokens, LEAST_TOKENS), MOST_TOKENS)}


def job_text(guess: Guess, columns: Sequence[str], data: str, model: str) -> str:
    """Return the job file, with comments on what may be changed."""
    lines = [
        "# Written by ranksieve init. `ranksieve explain FIELD` shows the meaning and the allowed values of a field.",
        f"model: {_quoted(model)} # a hub id, a folder (./model) or a file (./model.gguf)",
        "task:",
        f"  # Columns of the data: {', '.join(map(_quoted, columns))}. Templates are Jinja over them.",
        f"  kind: {guess.kind} # choice, generate or lm",
    ]
    if guess.chat:
        lines.append(
            "  chat_template: true # the prompt is a list of messages, which the model's template takes"
        )
    if guess.prompt:
        lines.append(f"  prompt: {_quoted(guess.prompt)}")
    lines.append(f"  answer: {_quoted(guess.answer)} # what the right answer is")
    if guess.choices:
        lines.append(f"  choices: [{', '.join(map(_quoted, guess.choices))}]")
    if guess.kind == "generate":
        lines.append(f"  max_new_tokens: {guess.max_new_tokens} # the longest answer")
    lines += [
        "  data:",
        f"    source: {{path: {_quoted(data)}}} # relative to the folder of this file",
        "objective:",
        "  kind: max_drop # the smallest model that is nearly as good; or target_params, target_bytes, …",
        "  points: 2.0 # how much it may lose" + (", in percent of perplexity" if guess.kind == "lm" else ""),
        "",
    ]
    return "\n".join(lines)


def _summary(guess: Guess) -> list[str]:
    lines = [f"kind: {guess.kind}", *guess.reasons]
    if guess.choices:
        lines.append(f"choices: {', '.join(guess.choices)}")
    return lines


def _text(value: object) -> str | None:
    """Return a value as a template writes it; None for anything but text and numbers."""
    return str(value) if isinstance(value, str | int | float) and str(value).strip() else None


def _are_labels(texts: Sequence[str]) -> bool:
    values = set(texts)
    few = 2 <= len(values) <= min(MOST_CHOICES, len(texts) // 2)
    return few and max(map(len, values)) <= LONGEST_CHOICE


def _rank(name: str, likely: Sequence[str]) -> int:
    return next((place for place, word in enumerate(likely) if word in name.lower()), len(likely))


def _is_chat(value: object) -> bool:
    """Return whether a value is a conversation that ends with an answer."""
    return (
        isinstance(value, list)
        and len(value) > 1
        and all(
            isinstance(message, dict)
            and isinstance(message.get("role"), str)
            and isinstance(message.get("content"), str)
            for message in value
        )
        and value[-1]["role"] == "assistant"
    )


def _column(name: str) -> str:
    """Return a column as an expression of a template."""
    spelt = name.isidentifier() and not iskeyword(name) and name.lower() not in _JINJA
    return name if spelt else f"record[{_quoted(name)}]"


def _template(expression: str) -> str:
    return f"{{{{ {expression} }}}}"


def _question(answer: str) -> str:
    return f"{answer.replace('_', ' ').capitalize()}:"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _model(model: str, folder: Path) -> str:
    """Return the job file's name of the model: a local one by its relative path."""
    path = Path(model).expanduser()
    return f"./{os.path.relpath(path.resolve(), folder)}" if path.exists() else model


def _root(data: Path, folder: Path) -> str:
    """Return the option that lets the commands read data in another folder."""
    real = data.resolve()
    here = any(real.is_relative_to(one) for one in (folder, Path.cwd()))
    return "" if here else f" --root {real.parent}"
