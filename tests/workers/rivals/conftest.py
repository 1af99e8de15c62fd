"""Setups of rivals on the tiny model: the answer is the parity of a prompt's first word."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from ranksieve.workers.rivals.rival import Setup
from ranksieve.workers.types.plan import EncodedTask, Example

WORDS = range(3, 48)
ANSWERS = ((5,), (6,))
SIZES = {"calibration": 96, "search": 32, "test": 40}


@pytest.fixture
def make_setup(
    llama_folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    make_task: Callable[..., EncodedTask],
    choice_example: Callable[..., Example],
) -> Callable[..., Setup]:
    def example(rng: random.Random) -> Example:
        prompt = tuple(rng.choice(WORDS) for _ in range(rng.randint(1, 4)))
        return choice_example(prompt, ANSWERS, prompt[0] % 2)

    def make(kind: str = "choice", **changes: Any) -> Setup:
        task, rng = make_task(kind), random.Random(0)
        if kind == "choice":
            splits = {name: tuple(example(rng) for _ in range(size)) for name, size in SIZES.items()}
            task = replace(task, splits=splits)
        setup = Setup(
            folder=llama_folder,
            dtype=torch.float32,
            tokenizer=tokenizer,
            task=task,
            context=64,
            chat_template=False,
            device=torch.device("cpu"),
            batch_tokens=256,
            seed=0,
        )
        return replace(setup, **changes)

    return make


@pytest.fixture
def setup(make_setup: Callable[..., Setup]) -> Setup:
    return make_setup()
