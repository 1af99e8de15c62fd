"""Encoding of records as token rows: render, divide, tokenize and check.

    DataPlan → records → prompts (templates) → splits → questions → Examples

Knows nothing of tensors. Every record that a split takes is checked here, before any work starts: its
fields, its label, its length in tokens. The tokenizer is one of transformers, by duck typing.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from ranksieve.search.errors import InputError
from ranksieve.workers.data import records
from ranksieve.workers.data.choices import Question, check_tokens, labelled, options_of
from ranksieve.workers.data.coder import Coder, Ids
from ranksieve.workers.data.conversation import Prompt, conversation
from ranksieve.workers.data.decoding import check_decoding
from ranksieve.workers.data.splits import SHARED, Candidate, Division, sizes_of, split
from ranksieve.workers.data.templates import Named, render, render_each, render_value
from ranksieve.workers.machine.child import step
from ranksieve.workers.types.answer_fields import is_object
from ranksieve.workers.types.plan import (
    DataPlan,
    EncodedTask,
    Example,
    RecordSource,
    Row,
    Span,
    TaskPlan,
    has_line_break,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode(
    task: TaskPlan, data: DataPlan, tokenizer: "PreTrainedTokenizerBase", context_length: int | None
) -> EncodedTask:
    """Read, divide and tokenize the records of a task.

    Args:
        task: Templates and choices.
        data: Sources and split sizes; only the splits that it names are made.
        tokenizer: The model's own.
        context_length: Longest row the model takes, in tokens; None if unbounded.

    Returns:
        Splits in the order calibration, search, confirm, test, each in shuffled order.

    Raises:
        InputError: The task does not fit the data or the model; names the field of the job file.
    """
    division, questions = _questions(task, data)
    step("model", f"tokenizing {len(questions):,} records")
    coder = Coder(tokenizer, chat_template=task.chat_template, context_length=context_length)
    examples = iter(_ENCODERS[task.kind](task, questions, coder))
    splits = {name: tuple(islice(examples, len(part))) for name, part in division.splits.items()}

    references = [text for example in splits.get("calibration", ()) for text in example.references]
    several_lines = any(map(has_line_break, references))
    objects = bool(references) and all(map(is_object, references))
    split_digests = {name: _digest(task, part, several_lines, objects) for name, part in splits.items()}
    encoded = EncodedTask(
        kind=task.kind,
        splits=splits,
        max_new_tokens=task.max_new_tokens,
        digest=hashlib.sha256(json.dumps(split_digests, sort_keys=True).encode()).hexdigest(),
        split_digests=split_digests,
        dropped_duplicates=division.dropped_duplicates,
        several_lines=several_lines,
        objects=objects,
    )
    if task.kind == "generate":
        _require_writable(encoded, questions[0])
    return encoded


def _require_writable(task: EncodedTask, first: Question) -> None:
    """Raise if a model can write no answer whole.

    `first` is the question of the first example.
    """
    examples = [example for part in task.splits.values() for example in part]
    if any(map(task.can_be_written, examples)):
        return
    up_to = "" if task.several_lines else ", up to its first line break"
    raise InputError(
        "task.max_new_tokens",
        f"must allow the whole answer of some record{up_to}; with {task.max_new_tokens} no answer fits, and that of "
        f"{first.name} has {examples[0].answer_tokens} tokens",
    )


def _questions(task: TaskPlan, data: DataPlan) -> tuple[Division, list[Question]]:
    """Divide the records, and render the chosen ones."""
    _prompts(task, ())
    render(task.answer, "task.answer", ())
    splits = data.splits or tuple(data.sizes)
    sources = {name: data.files[name] for name in splits if name in data.files}
    if data.source is not None and len(sources) < len(splits):
        sources[SHARED] = data.source
    pools = {name: _candidates(task, source, data.group) for name, source in sources.items()}
    division = split(pools, sizes_of(pools, splits, data.sizes), data.seed)
    chosen = [candidate for part in division.splits.values() for candidate in part]
    named = [(c.name, c.record) for c in chosen]
    if task.kind == "generate":
        answers = render_each(task.answer, "task.answer", named)
    else:
        answers = [(answer,) for answer in render(task.answer, "task.answer", named)]
    return division, [
        Question(c.name, c.prompt, answer, c.record) for c, answer in zip(chosen, answers, strict=True)
    ]


def _candidates(task: TaskPlan, source: RecordSource, group: str | None) -> list[Candidate]:
    file_name = records.describe(source)
    named = [(f"record {number} of {file_name}", one) for number, one in enumerate(records.read(source), 1)]
    prompts = _prompts(task, named)
    more: list[list[str]] = [[] for _ in named]
    if task.kind == "lm":
        more = [[answer] for answer in render(task.answer, "task.answer", named)]
    elif task.choices_field is not None:
        more = [sorted(options_of(record, task.choices_field, name).texts) for name, record in named]
    return [
        Candidate(
            name=name,
            record=record,
            prompt=prompt,
            key=json.dumps([prompt, *others]),
            group=None if group is None else _group_of(record, group, name),
        )
        for (name, record), prompt, others in zip(named, prompts, more, strict=True)
    ]


def _prompts(task: TaskPlan, named: Sequence[Named]) -> list[Prompt]:
    """Render the prompts: texts, or conversations for the chat template."""
    values = render_value(task.prompt, "task.prompt", named)
    prompts: list[Prompt] = []
    for value, (name, _) in zip(values, named, strict=True):
        if isinstance(value, list) and not task.chat_template:
            raise InputError(
                "task.prompt",
                f"{name} has a list as its prompt; join it to a text, e.g. {{{{ words | join(' ') }}}}, or set "
                "task.chat_template to true if it is a list of messages",
            )
        prompts.append(conversation(value, name) if isinstance(value, list) else value)
    return prompts


def _group_of(record: Mapping[str, Any], field: str, name: str) -> str:
    """Return a record's group as a text: 3 of a jsonl file is 3 of a csv file."""
    if record.get(field) is None:
        fields = ", ".join(key for key, value in record.items() if value is not None)
        raise InputError("task.data.group", f"{name} has no value of {field!r}; it has {fields}")
    return str(record[field])


def _encode_choice(task: TaskPlan, questions: Sequence[Question], coder: Coder) -> list[Example]:
    options, labels = labelled(task, questions)
    delimiter = "" if task.chat_template else task.delimiter
    answers = iter(coder.answers([delimiter + text for option in options for text in option.texts]))
    examples = []
    prompts = coder.prompts(questions)
    for question, prompt_ids, option, label in zip(questions, prompts, options, labels, strict=True):
        choices = list(islice(answers, len(option.texts)))
        _check_prompt(prompt_ids, question)
        check_tokens(choices, option, question, task)
        longest = len(prompt_ids) + max(map(len, choices)) - 1
        coder.check_length(longest, question, "task.prompt", "too long a prompt with its longest choice")
        examples.append(
            Example(rows=_rows(prompt_ids, choices), choices=len(choices), label=label, prompt_ids=prompt_ids)
        )
    return examples


def _rows(prompt_ids: Ids, choices: Sequence[Ids]) -> tuple[Row, ...]:
    """Return one row for each distinct input.

    The last token of an answer is only predicted, never read.
    """
    spans: dict[Ids, list[Span]] = {}
    for choice, ids in enumerate(choices):
        span = Span(choice=choice, start=len(prompt_ids) - 1, ids=ids)
        spans.setdefault(prompt_ids + ids[:-1], []).append(span)
    return tuple(Row(ids=ids, spans=tuple(group)) for ids, group in spans.items())


def _encode_generate(task: TaskPlan, questions: Sequence[Question], coder: Coder) -> list[Example]:
    check_decoding(coder.tokenizer)
    delimiter = "" if task.chat_template else task.delimiter
    for question in questions:
        if not question.answers:
            raise InputError(
                "task.answer", f"{question.name} has an empty list of answers; leave the record out"
            )
    answers = coder.answers([delimiter + question.answer for question in questions])
    stop = coder.end()
    examples = []
    prompts = coder.prompts(questions)
    for question, prompt_ids, answer_ids in zip(questions, prompts, answers, strict=True):
        _check_prompt(prompt_ids, question)
        if not answer_ids:
            raise InputError("task.answer", f"{question.name} has the answer {question.answer!r}: no tokens")
        target = answer_ids + stop
        new_tokens = f"a prompt of {len(prompt_ids):,} tokens with max_new_tokens {task.max_new_tokens}"
        coder.check_length(len(prompt_ids) + task.max_new_tokens, question, "task.prompt", new_tokens)
        coder.check_length(len(prompt_ids) + len(target) - 1, question, "task.answer", "too long an answer")
        examples.append(
            Example(
                rows=_rows(prompt_ids, [target]),
                choices=1,
                label=0,
                prompt_ids=prompt_ids,
                references=question.answers,
                end=stop[0] if stop else None,
            )
        )
    return examples


def _encode_lm(task: TaskPlan, questions: Sequence[Question], coder: Coder) -> list[Example]:
    after_prompt = bool(task.prompt) or task.chat_template
    delimiter = task.delimiter if task.prompt and not task.chat_template else ""
    texts = [delimiter + question.answer for question in questions]
    answers = coder.answers(texts, after_prompt=after_prompt)
    examples = []
    prompts = coder.prompts(questions)
    for question, prompt_ids, answer_ids in zip(questions, prompts, answers, strict=True):
        # Without a prompt, no logits predict the first token, so it is context.
        context = prompt_ids or answer_ids[:1]
        target = answer_ids if prompt_ids else answer_ids[1:]
        if not target:
            raise InputError(
                "task.answer",
                f"{question.name} has the text {question.answer!r}: {len(answer_ids)} tokens, none to "
                "predict; leave the record out",
            )
        coder.check_length(len(context) + len(target) - 1, question, "task.answer", "too long a text")
        examples.append(Example(rows=_rows(context, [target]), choices=1, label=0, prompt_ids=prompt_ids))
    return examples


_ENCODERS: Mapping[str, Callable[[TaskPlan, Sequence[Question], Coder], list[Example]]] = {
    "choice": _encode_choice,
    "generate": _encode_generate,
    "lm": _encode_lm,
}


def _check_prompt(prompt_ids: Ids, question: Question) -> None:
    if not prompt_ids:
        raise InputError("task.prompt", f"{question.name} has the prompt {question.prompt!r}: no tokens")


def _digest(task: TaskPlan, examples: Iterable[Example], several_lines: bool, objects: bool) -> str:
    """Return a hash of what the model sees of a split.

    It covers kind, where writing ends, how answers are compared, token ids, labels and references, in order.
    """
    written = [task.max_new_tokens, several_lines, objects] if task.kind == "generate" else []
    sha = hashlib.sha256(json.dumps([task.kind, *written]).encode())
    for example in examples:
        rows = [
            [row.ids, [(span.choice, span.start, span.ids) for span in row.spans]] for row in example.rows
        ]
        sha.update(json.dumps([rows, example.choices, example.label, example.references]).encode())
    return sha.hexdigest()
