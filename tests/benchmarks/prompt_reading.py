"""What reading a prompt once saves where several answers go on from it.

    .venv/bin/python tests/benchmarks/prompt_reading.py

The demo's model at `--share` of its parameters finds how likely four answers of several tokens are after each of
`--examples` reviews: with a row for each, prompt and all, and with prompts that are read once. All in turn, in one run,
on one thread; times are the fastest of `--rounds`.
"""

import json
from argparse import Namespace
from functools import partial
from random import Random

import torch
from real_model import CPU, load, parser
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ranksieve.search.start.seeds import lagrangian
from ranksieve.workers.cost.timing import Timed, fastest, last_of, timer_for
from ranksieve.workers.forward.batches import make_batches
from ranksieve.workers.forward.generation import answers
from ranksieve.workers.forward.likelihood import answer_logits
from ranksieve.workers.model.sources import load_tokenizer
from ranksieve.workers.types.plan import Example, ModelSource, Row, Span

ANSWERS = (
    " a film to avoid",
    " not quite a waste of time",
    " quite good for what it is",
    " one of the best films of the year",
)


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(1)
    real = load(arguments.data_dir, threads=1)
    real.switchable.switch(real.space.ranks(lagrangian(real.space, real.prepared.energies, arguments.share)))
    tokenizer = load_tokenizer(ModelSource(kind="path", location=str(real.prepared.model.folder)))
    examples = _examples(tokenizer, real.task.splits["confirm"][: arguments.examples])
    budget, model = real.spec.resources.batch_tokens, real.switchable.model
    ways = {
        "row by row": Timed(run=partial(_row_by_row, model, examples, budget)),
        "read once": Timed(run=partial(_read_once, model, tokenizer, examples, budget)),
    }
    spent = last_of(fastest(ways, timer_for(CPU, 1), arguments.rounds, Random(0)))
    by_row, once = (spent[way] / 1e6 for way in ways)
    print(f"{len(examples)} reviews, {len(ANSWERS)} answers each")
    print(f"row by row {by_row:,.0f} ms, read once {once:,.0f} ms, {by_row / once:.2f} times as fast")
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"row_by_row_ms": by_row, "read_once_ms": once}, indent=1) + "\n"
        )


def _arguments() -> Namespace:
    options = parser(__doc__)
    options.add_argument("--share", type=float, default=0.3)
    options.add_argument("--examples", type=int, default=96)
    options.add_argument("--rounds", type=int, default=3)
    return options.parse_args()


def _examples(tokenizer: PreTrainedTokenizerBase, examples: tuple[Example, ...]) -> list[Example]:
    """The same prompts, with other answers to choose from."""
    ids = [tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ANSWERS]
    return [
        Example(
            rows=tuple(
                Row(
                    ids=example.prompt_ids + answer[:-1],
                    spans=(Span(choice=choice, start=len(example.prompt_ids) - 1, ids=answer),),
                )
                for choice, answer in enumerate(ids)
            ),
            choices=len(ids),
            label=0,
            prompt_ids=example.prompt_ids,
        )
        for example in examples
    ]


@torch.inference_mode()
def _row_by_row(model: PreTrainedModel, examples: list[Example], budget: int) -> None:
    for batch in make_batches(examples, len(ANSWERS), budget):
        answer_logits(model, batch)


@torch.inference_mode()
def _read_once(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: list[Example], budget: int
) -> None:
    for _ in answers(model, tokenizer, examples, len(ANSWERS), budget):
        pass


if __name__ == "__main__":
    main()
