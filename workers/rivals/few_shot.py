"""The dense model after a few calibration records with their right answers."""

from collections.abc import Iterator
from dataclasses import replace

from ranksieve.search.errors import ScoringError
from ranksieve.workers.data.coder import prefix_of
from ranksieve.workers.forward.batches import longest_row
from ranksieve.workers.rivals.rival import Rival, Setup, language_model, scores_of, whole
from ranksieve.workers.types.plan import Example

SHOTS = (2, 4, 8)
SEPARATOR = "\n\n"


def few_shot(setup: Setup) -> Iterator[Rival]:
    """Yield the dense model with some records before every prompt.

    Source: arXiv 2005.14165, section 2.
    """
    if setup.task.kind == "lm" or setup.chat_template:
        raise ScoringError("needs prompts, without the chat template")
    model = setup.load()
    prompts = {shots: _with_shots(setup, shots) for shots in SHOTS}
    fitting = {shots: shown for shots, shown in prompts.items() if _fits(shown)}
    if not fitting:
        raise ScoringError(f"{SHOTS[0]} records and a prompt are longer than the model's context")
    request = whole(setup, "search", loss_only=True)
    loss = {
        shots: float(scores_of(shown, model)(request).nll_nats.mean()) for shots, shown in fitting.items()
    }
    shots = min(loss, key=lambda shots: loss[shots])
    yield language_model(fitting[shots], f"dense, {shots} examples in the prompt", model, {"shots": shots})


def _with_shots(setup: Setup, shots: int) -> Setup:
    """Return the task with the first calibration records before every prompt."""
    separator = tuple(setup.tokenizer(SEPARATOR, add_special_tokens=False)["input_ids"])
    shown = setup.task.splits["calibration"][:shots]
    start = prefix_of(setup.tokenizer)
    prefix = start
    for example in shown:
        answer = _right_answer(example, ended=setup.task.several_lines)
        prefix += example.prompt_ids[len(start) :] + answer + separator
    splits = {
        name: tuple(_after(prefix, len(start), example) for example in setup.task.splits[name])
        for name in ("search", "test")
    }
    return replace(setup, task=replace(setup.task, splits=splits))


def _right_answer(example: Example, *, ended: bool) -> tuple[int, ...]:
    """Return the tokens of an example's right answer.

    `ended` keeps the token that ends it: answers of several lines end at no line break, so the model must see what
    they end with.
    """
    spans = (span for row in example.rows for span in row.spans if span.choice == example.label)
    ids = next(span.ids for span in spans)
    return ids[:-1] if not ended and example.end is not None and ids[-1:] == (example.end,) else ids


def _after(prefix: tuple[int, ...], skipped: int, example: Example) -> Example:
    """Return an example behind a prefix, without its own first tokens."""
    moved = len(prefix) - skipped
    rows = tuple(
        replace(
            row,
            ids=prefix + row.ids[skipped:],
            spans=tuple(replace(span, start=span.start + moved) for span in row.spans),
        )
        for row in example.rows
    )
    return replace(example, rows=rows, prompt_ids=prefix + example.prompt_ids[skipped:])


def _fits(setup: Setup) -> bool:
    room = setup.task.max_new_tokens if setup.task.kind == "generate" else 0
    longest = max(
        max(longest_row(example), len(example.prompt_ids) + room)
        for examples in setup.task.splits.values()
        for example in examples
    )
    return setup.context is None or longest <= setup.context
